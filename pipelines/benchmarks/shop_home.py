"""A home of its own for a made-up shop: its tables and features by the real steps, and bundles of it."""

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.benchmarks.mixed_load import Mix
from pipelines.benchmarks.synthetic_shop import Shop, make_shop, write_files, write_shop_bundle
from pipelines.errors import StoreError
from pipelines.inference.manifest import Manifest
from pipelines.places import HOME_VARIABLE, Places
from pipelines.pseudonyms import KEY_VARIABLE
from pipelines.stores.serving_pointer import ServingPointer, read_pointer, write_pointer

_PREPARATION = ("ingest_tables", "validate_tables", "build_features", "materialize_features")
_PROJECT = Path(__file__).resolve().parents[2]
_QUERIES = 500


class ShopHome:
    """The home, and the environment of everything that runs in it."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        """Take an empty folder.

        Args:
            folder: Where the home and the shop's files go.
            environment: Further variables, such as the address of an online store.
        """
        self._folder = folder
        self.places = Places(folder / "home")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self.environment = {
            **kept,
            HOME_VARIABLE: str(self.places.home),
            KEY_VARIABLE: secrets.token_hex(32),
            "HEADRACE_CONFIG": str(folder / "settings.yaml"),
            **(environment or {}),
        }

    def prepare(
        self, *, items: int, users: int, words: int, sales: int, seed: int, settings: Mapping[str, Any] | None = None
    ) -> Shop:
        """Write the shop and run the feature pipeline on it.

        Raises:
            StoreError: a step failed.
        """
        import yaml

        shop = make_shop(items=items, users=users, words=words, seed=seed)
        mapping = write_files(shop, self._folder / "shop", sales=sales, now=datetime.now(UTC), seed=seed)
        choices = {"source": {"kind": "tables", "mapping": str(mapping)}, **(settings or {})}
        (self._folder / "settings.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
        for step in _PREPARATION:
            self.headrace(step)
        return shop

    def write_bundle(self, shop: Shop, name: str, *, dim: int, seed: int, available: bool = True) -> Manifest:
        """Write a bundle of the shop into the home."""
        return write_shop_bundle(shop, self.places.bundles / name, dim=dim, seed=seed, available=available)

    def point_to(self, name: str) -> str:
        """Make the pointer name a bundle, as a deployment does; return its id."""
        from pipelines.inference.manifest import read_manifest

        folder = self.places.bundles / name
        bundle = read_manifest(folder).bundle_id
        now, pointer = datetime.now(UTC), read_pointer(self.places.current_bundle)
        moved = (
            ServingPointer(bundle=bundle, folder=folder, deployed_at=now)
            if pointer is None
            else pointer.followed_by(bundle, folder, now)
        )
        write_pointer(self.places.current_bundle, moved)
        return bundle

    def headrace(self, *arguments: str) -> None:
        """Run a command in this home.

        Raises:
            StoreError: it failed.
        """
        run_headrace(arguments, self.environment)


def shop_mix(shop: Shop, port: int, rate: float, **choices: Any) -> Mix:
    """Return a load of what is asked of a shop; `choices` are further fields of the mix."""
    return Mix(port, rate, shop.users, shop.item_ids, shop.titles[:_QUERIES], **choices)


def run_headrace(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run `headrace` with these arguments and environment.

    Raises:
        StoreError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        cwd=_PROJECT,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise StoreError(f"`headrace {' '.join(arguments)}` failed with exit code {done.returncode}: {last}")
