"""Rows that were set aside and mended: they wait below quarantine/replay for the next window.

quarantine/<window>/<table>.parquet       rows set aside, with rule and reason
quarantine/replay/<id>/<table>.parquet    mended rows in contract form, users as pseudonyms
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

REPLAYS = "replay"


@dataclass(frozen=True)
class Replay:
    """Mended rows that are to be read again."""

    id: str
    """Hash of the content: the same rows are one replay, however often they are sent."""
    files: Mapping[str, Path]
    """Table -> Parquet file, of the tables that it has."""


def pending_replays(quarantine: Path, *, done: Collection[str]) -> list[Replay]:
    """Return what waits, oldest first.

    Args:
        done: Ids that an accepted window held.
    """
    folders = [folder for folder in (quarantine / REPLAYS).glob("[!.]*") if folder.name not in done]
    folders.sort(key=lambda folder: (folder.stat().st_mtime_ns, folder.name))
    return [Replay(folder.name, {file.stem: file for file in sorted(folder.glob("*.parquet"))}) for folder in folders]
