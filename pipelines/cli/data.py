"""Where tables come from, and the rows that were set aside."""

import sys
from pathlib import Path
from typing import Any

import click

from pipelines.cli.group import cli


@cli.group()
def source() -> None:
    """Look at where tables come from."""


@source.command("check")
@click.argument("mapping", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def source_check(mapping: Path | None, as_json: bool) -> None:
    """Explain what a source would give: which column became what, five rows of each table, what is missing.

    MAPPING is a mapping file (default: the source that the settings name). Only reads. Exit code 1 and a sentence for
    each problem where there are some.

    \b
    Example: headrace source check shop/mapping.yaml
    """
    from pipelines.commands.check_source import as_json as json_text
    from pipelines.commands.check_source import as_text, run_check

    check = run_check(mapping)
    click.echo(json_text(check) if as_json else as_text(check))
    if check.problems:
        sys.exit(1)


@cli.group()
def quarantine() -> None:
    """See what was set aside, export it for mending, and feed it back in.

    \b
    Example: headrace quarantine show
    """


_window = click.option("--window", metavar="ID", help="Window in which the rows were set aside (default: all).")


_table = click.option(
    "--table", type=click.Choice(["items", "events", "users", "judgements"]), help="Table (default: all)."
)


_reason = click.option("--reason", metavar="TEXT", help="Only reasons that contain this text.")


@quarantine.command("show")
@_window
@_table
@_reason
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="Example rows of each reason.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a reason.")
def quarantine_show(rows: int, as_json: bool, **wanted: Any) -> None:
    """List windows, tables and reasons with counts, what each reason means, and some rows.

    \b
    Example: headrace quarantine show --table events --reason "not in items"
    """
    from pipelines.commands.quarantine import show
    from pipelines.stores.quarantine import Wanted
    from pipelines.wiring import Wiring

    show(Wiring.from_environment().tables, Wanted(**wanted), rows=rows, as_json=as_json, echo=click.echo)


@quarantine.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_window
@_table
@_reason
def quarantine_export(file: Path, **wanted: Any) -> None:
    """Write rows that were set aside to a .csv or .parquet FILE, for mending by hand or script.

    \b
    Example: headrace quarantine export broken.csv --table events
    """
    from pipelines.commands.quarantine import export
    from pipelines.stores.quarantine import Wanted
    from pipelines.wiring import Wiring

    export(Wiring.from_environment().tables, file, Wanted(**wanted), echo=click.echo)


@quarantine.command("replay")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_window
@_table
@_reason
def quarantine_replay(file: Path | None, **wanted: Any) -> None:
    """Feed the mended rows of FILE to the next window; without FILE, rows as they are.

    The same rows twice change nothing.

    \b
    Example: headrace quarantine replay broken.csv
    Example: headrace quarantine replay --reason "item_id is not in items"
    """
    from pipelines.commands.quarantine import replay
    from pipelines.stores.quarantine import Wanted
    from pipelines.wiring import Wiring

    wiring = Wiring.from_environment()
    replay(wiring.tables, file, Wanted(**wanted), pseudonymizer=lambda: wiring.pseudonymizer, echo=click.echo)
