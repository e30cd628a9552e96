"""Folders for the quality benches, small enough to work out by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ITEM_IDS = ["a", "b", "c", "d", "e"]
TITLES = ["red tea", "green tea", "red pot", "green pot", "cup"]


def write_table(folder: Path, name: str, columns: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), folder / f"{name}.parquet")
    return folder


def write_items(folder: Path, **columns: Any) -> Path:
    return write_table(folder, "items", {"item_id": ITEM_IDS, "title": TITLES, **columns})


def write_interactions(
    folder: Path, events: Sequence[tuple[str, str, int]], *, with_pos: bool = True, **columns: Any
) -> Path:
    """Write events of (user, item, time); `pos` counts the events of each user in this order."""
    users = [user for user, _, _ in events]
    table: dict[str, Any] = {
        "user_id": users,
        "item_id": [item for _, item, _ in events],
        "timestamp": [time for _, _, time in events],
        **columns,
    }
    if with_pos:
        table["pos"] = [users[:place].count(user) for place, user in enumerate(users)]
    return write_table(folder, "interactions", table)


def write_judgements(folder: Path, judgements: Sequence[tuple[str, str, float]]) -> Path:
    queries, items, grades = zip(*judgements, strict=True)
    return write_table(folder, "judgements", {"query": queries, "item_id": items, "grade": grades})
