"""The Parquet files behind the Feast offline store: one a source, and a manifest that says what they were made of."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.errors import StoreError
from pipelines.schemas import Record
from pipelines.stores.files import write_text

FEATURE_FILES = ("user_activity", "user_history", "item_popularity")
"""Names of the files, without `.parquet`."""


class FeatureManifest(Record):
    """What the files were made of; written last."""

    format: int = 1
    fingerprint: str = Field(description="SHA-256 over the tables and the settings.")
    tables_fingerprint: str
    until: datetime = Field(description="Events that arrived later are not in the files.")
    rows: dict[str, int]


class FeatureFiles:
    """Feature files below one folder. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return where the file `name` lies."""
        return self.folder / f"{name}.parquet"

    def find(self) -> FeatureManifest | None:
        """Return what the files were made of; None where they are missing or half replaced."""
        try:
            manifest = FeatureManifest.model_validate_json((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None
        return manifest if all(self.path(name).is_file() for name in FEATURE_FILES) else None

    def load(self) -> FeatureManifest:
        """Return what the files were made of.

        Raises:
            StoreError: there are none, or they are being replaced.
        """
        manifest = self.find()
        if manifest is None:
            raise StoreError(f"There are no finished feature files in {self.folder}: run `headrace build_features`.")
        return manifest

    @contextmanager
    def replacing(self) -> Iterator[dict[str, Path]]:
        """Give a temporary path a file; when the block ends well, all take their places.

        Between the first and the last rename there is no manifest, so that nobody reads a mixture: write it with
        `finish` afterwards.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        temporary = {name: self.folder / f".{name}.parquet.tmp" for name in FEATURE_FILES}
        try:
            yield temporary
            for path in temporary.values():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            (self.folder / "manifest.json").unlink(missing_ok=True)
            for name, path in temporary.items():
                path.replace(self.path(name))
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)

    def finish(self, manifest: FeatureManifest) -> None:
        """Declare the files complete."""
        write_text(self.folder / "manifest.json", manifest.model_dump_json(indent=2))
