"""Who may call the service."""

from typing import Any

import click

from pipelines.cli.group import cli


@cli.group()
def keys() -> None:
    """Say who may call the service, and what for; running services follow within a second.

    \b
    Example: headrace keys add shop --scope serve --scope write
    """


@keys.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["serve", "write", "admin"]),
    multiple=True,
    default=("serve",),
    show_default=True,
    help="What it may do: serve answers, write events and items, administer; several times for several.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Requests a second and worker (default: settings)."
)
def keys_add(name: str, scopes: tuple[Any, ...], rate: float | None) -> None:
    """Make a key and print it, once; only its hash is kept.

    \b
    Example: headrace keys add shop --scope serve --scope write
    Example: headrace keys add operations --scope admin
    """
    from pipelines.commands.keys import add
    from pipelines.places import Places

    add(Places.from_environment().api_keys, name, scopes=scopes, rate=rate, echo=click.echo)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a key.")
def keys_list(as_json: bool) -> None:
    """List the keys by name, with what they may do.

    \b
    Example: headrace keys list
    """
    from pipelines.commands.keys import list_all
    from pipelines.places import Places

    list_all(Places.from_environment().api_keys, as_json=as_json, echo=click.echo)


@keys.command("remove")
@click.argument("name")
def keys_remove(name: str) -> None:
    """Take a key back.

    \b
    Example: headrace keys remove shop
    """
    from pipelines.commands.keys import remove
    from pipelines.places import Places

    remove(Places.from_environment().api_keys, name, echo=click.echo)
