"""`headrace keys`: who may call the service, and what for."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipelines.stores.api_keys import KeyScope, add_key, read_keys, remove_key

Echo = Callable[[str], None]


def add(path: Path, name: str, *, scopes: tuple[KeyScope, ...], rate: float | None, echo: Echo) -> None:
    """Make a key and print it, once."""
    key = add_key(path, name, scopes=scopes, now=datetime.now(UTC), requests_per_second=rate)
    echo(key)
    echo("It is not shown again. Callers send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")


def list_all(path: Path, *, as_json: bool, echo: Echo) -> None:
    """Print the keys, without their secrets."""
    keys = read_keys(path)
    if as_json:
        for key in keys:
            echo(json.dumps(key.model_dump(mode="json", exclude={"sha256"})))
        return
    if not keys:
        echo("There are no keys: the service answers its own machine alone. `headrace keys add NAME` makes one.")
    for key in keys:
        rate = "" if key.requests_per_second is None else f", {key.requests_per_second:g} requests/s"
        echo(f"{key.name}: {' and '.join(key.scopes)}{rate}, since {key.created_at:%Y-%m-%d} (hr_{key.id}_…)")


def remove(path: Path, name: str, *, echo: Echo) -> None:
    """Take a key back; running services refuse it from now on."""
    remove_key(path, name)
    echo(f"The key {name!r} is not accepted any more.")
    if not read_keys(path):
        echo("There are no keys any more: the service answers its own machine alone, without a key.")
