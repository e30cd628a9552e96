"""Rows of a training set, written by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluation.rows import EvaluationRows, read_rows

TEST_START = datetime(2026, 1, 29, tzinfo=UTC)
ROWS = pa.schema(
    [
        pa.field("row_id", pa.int64()),
        pa.field("split", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("as_of", pa.timestamp("us", tz="UTC")),
        pa.field("target_item_ids", pa.list_(pa.string())),
        pa.field("new_item_ids", pa.list_(pa.string())),
        pa.field("clicked_item_ids", pa.list_(pa.string())),
        pa.field("history_item_ids", pa.list_(pa.string())),
        pa.field("history_event_types", pa.list_(pa.string())),
        pa.field("history_times", pa.list_(pa.int64())),
        pa.field("events_28d_decayed", pa.float64()),
    ]
)


def row(
    row_id: int,
    user: str,
    *,
    history: Sequence[str] = ("a",),
    targets: Sequence[str] = ("b",),
    new: Sequence[str] | None = None,
    seen: Sequence[str] | None = (),
    clicked: Sequence[str] | None = None,
    split: str = "test",
    days_apart: float = 1.0,
) -> dict[str, Any]:
    """Return one row; the newest event of the history is a day old, each one before `days_apart` older.

    `new` None means all targets; `seen` None leaves the row out of seen.parquet.
    """
    as_of = TEST_START + timedelta(hours=row_id)
    ages = [1 + days_apart * place for place in reversed(range(len(history)))]
    return {
        "row_id": row_id,
        "split": split,
        "user_id": user,
        "session_id": f"basket-{row_id}",
        "as_of": as_of,
        "target_item_ids": list(targets),
        "new_item_ids": list(targets if new is None else new),
        "clicked_item_ids": clicked,
        "history_item_ids": list(history),
        "history_event_types": ["purchase"] * len(history),
        "history_times": [int((as_of - timedelta(days=age)).timestamp()) for age in ages],
        "events_28d_decayed": float(len(history)),
        "seen": seen,
    }


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows.parquet and seen.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    seen = [{"row_id": one["row_id"], "item_ids": list(one["seen"])} for one in rows if one["seen"] is not None]
    schema = pa.schema([pa.field("row_id", pa.int64()), pa.field("item_ids", pa.list_(pa.string()))])
    pq.write_table(pa.Table.from_pylist(seen, schema=schema), folder / "seen.parquet")
    plain = [{name: value for name, value in one.items() if name != "seen"} for one in rows]
    pq.write_table(pa.Table.from_pylist(plain, schema=ROWS), folder / "rows.parquet")


def rows_of(folder: Path, catalogue: Sequence[str], *rows: dict[str, Any]) -> EvaluationRows:
    """Write the rows and read them back."""
    write_rows(folder, rows)
    return read_rows(folder, "test", catalogue)
