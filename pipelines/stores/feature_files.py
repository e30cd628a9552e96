"""The Parquet files behind the Feast offline store.

features/manifest.json                       what is valid; written last
features/users/<day>.parquet                 what was known of each user after each arrival on that UTC day
features/item_statistics/<day>.parquet       what happened to each item up to the end of that day
features/item_prices/<day>.parquet           prices that the catalogue showed on that day
features/base/<name>.<build>.parquet         the newest row of every user and item before a day: where a build starts

Arrival is the clock: a late event makes a row in the day in which it arrived and changes no older file.
"""

import os
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.errors import StoreError
from pipelines.schemas import Record
from pipelines.stores.files import write_text

DAILY_FILES = ("users", "item_statistics")
"""Folders with a file for each arrival day."""
FEATURE_FILES = (*DAILY_FILES, "item_prices")
"""Folders of day files: the sources of the feature views."""
FORMAT = 2
_STAGING = ".building"


class FeatureDay(Record):
    """The files of one day."""

    source: str = Field(
        description="Stands for what they were made of: a hash of the day's events or of the catalogue."
    )
    build: int = Field(description="Serial number of the build that wrote them.")
    rows: dict[str, int] = Field(description="Rows by folder.")
    oldest: dict[str, datetime] = Field(description="Oldest `event_timestamp` by folder; absent where there is no row.")


class FeatureManifest(Record):
    """What the files were made of."""

    format: int = FORMAT
    complete: bool = Field(default=True, description="False while files are being replaced.")
    fingerprint: str = Field(description="SHA-256 over the tables and the settings.")
    tables_fingerprint: str
    settings: str = Field(description="SHA-256 over the settings and the version of the queries.")
    until: datetime = Field(description="Events that arrived later are not in the files.")
    build: int = Field(description="Serial number of the newest build that wrote something.")
    days: dict[str, FeatureDay] = Field(default={}, description="Arrival day -> its files, oldest first.")
    prices: dict[str, FeatureDay] = Field(default={}, description="Day of the catalogue -> its file, oldest first.")
    base_day: str | None = Field(default=None, description="Last day that is in the base; None without a base.")
    base_build: int = Field(default=0, description="Build that wrote the base.")

    @property
    def rows(self) -> dict[str, int]:
        """Rows by folder."""
        total = dict.fromkeys(FEATURE_FILES, 0)
        for day in (*self.days.values(), *self.prices.values()):
            for name, rows in day.rows.items():
                total[name] += rows
        return total

    def touched_since(self, build: int) -> dict[str, datetime]:
        """Return the oldest `event_timestamp` among the rows that later builds wrote, by folder.

        A folder that they wrote no row into is absent.
        """
        oldest: dict[str, datetime] = {}
        for day in (*self.days.values(), *self.prices.values()):
            if day.build > build:
                for name, moment in day.oldest.items():
                    oldest[name] = min(oldest.get(name, moment), moment)
        return oldest


class FeatureFiles:
    """Feature files below one folder. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the folder of the day files `name`."""
        return self.folder / name

    def glob(self, name: str) -> str:
        """Return a pattern for the day files `name`."""
        return str(self.path(name) / "*.parquet")

    def day_file(self, name: str, day: str) -> Path:
        """Return where the file of one day lies."""
        return self.path(name) / f"{day}.parquet"

    def base_file(self, name: str, build: int) -> Path:
        """Return where the newest rows before a day lie."""
        return self.folder / "base" / f"{name}.{build}.parquet"

    def since_base(self, name: str, manifest: FeatureManifest) -> list[Path]:
        """Return the files that hold the newest row of everyone: the base, and the days after it."""
        days = [day for day in manifest.days if manifest.base_day is None or day > manifest.base_day]
        base = [self.base_file(name, manifest.base_build)] if manifest.base_day else []
        return [*base, *(self.day_file(name, day) for day in days)]

    def staged(self, name: str, day: str) -> Path:
        """Return where a build puts a file before it takes its place."""
        return self.folder / _STAGING / name / f"{day}.parquet"

    def find(self) -> FeatureManifest | None:
        """Return what the files were made of; None where they are missing or being replaced."""
        manifest = self.last_state()
        return manifest if manifest and manifest.complete else None

    def last_state(self) -> FeatureManifest | None:
        """Return the days that are valid even where a build was killed; None where there is nothing to build on."""
        try:
            manifest = FeatureManifest.model_validate_json((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None
        if manifest.format != FORMAT:
            return None
        expected = [self.day_file(name, day) for day in manifest.days for name in DAILY_FILES]
        expected += [self.day_file("item_prices", day) for day in manifest.prices]
        return manifest if all(path.is_file() for path in expected) else None

    def load(self) -> FeatureManifest:
        """Return what the files were made of.

        Raises:
            StoreError: there are none, or they are being replaced.
        """
        manifest = self.find()
        if manifest is None:
            raise StoreError(f"There are no finished feature files in {self.folder}: run `headrace build_features`.")
        return manifest

    def start(self) -> None:
        """Clear what a killed build left, and make the folders."""
        shutil.rmtree(self.folder / _STAGING, ignore_errors=True)
        for name in FEATURE_FILES:
            self.path(name).mkdir(parents=True, exist_ok=True)
            (self.folder / _STAGING / name).mkdir(parents=True)
        (self.folder / "base").mkdir(exist_ok=True)

    def replace(self, manifest: FeatureManifest, kept: FeatureManifest) -> None:
        """Let the staged files take their places; files that the manifest does not know go.

        In between the manifest on disk holds only what stays valid whatever happens, and nobody reads a mixture: a
        build that is killed here goes on from those days.

        Args:
            kept: The state before, reduced to the days whose files stay.
        """
        os.sync()  # once for hundreds of files
        self._write(kept.model_copy(update={"complete": False}))
        for name in FEATURE_FILES:
            for path in (self.folder / _STAGING / name).glob("*.parquet"):
                path.replace(self.day_file(name, path.stem))
        self._remove_strangers(manifest)
        os.sync()
        self._write(manifest)
        shutil.rmtree(self.folder / _STAGING, ignore_errors=True)

    def _write(self, manifest: FeatureManifest) -> None:
        write_text(self.folder / "manifest.json", manifest.model_dump_json(indent=1))

    def _remove_strangers(self, manifest: FeatureManifest) -> None:
        known: dict[str, Iterable[str]] = dict.fromkeys(DAILY_FILES, manifest.days)
        known["item_prices"] = manifest.prices
        for name, days in known.items():
            for path in self.path(name).iterdir():
                if path.suffix != ".parquet" or path.stem not in days:
                    path.unlink()
        bases = {self.base_file(name, manifest.base_build) for name in DAILY_FILES}
        for path in (self.folder / "base").iterdir():
            if path not in bases:
                path.unlink()
        for path in self.folder.glob("*.parquet"):  # of older versions
            path.unlink()
