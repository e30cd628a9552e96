"""Events written by hand, as the contract's table and as accepted tables."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schemas import EVENTS, ITEMS, IngestedWindow
from pipelines.stores.files import write_text
from pipelines.stores.table_store import IngestedManifest, TableStore, window_id

DAY_ZERO = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    """Return the moment so many days after DAY_ZERO."""
    return DAY_ZERO + timedelta(days=number)


def event(
    user: str,
    item: str | None,
    at: datetime,
    *,
    kind: str = "purchase",
    arrived: datetime | None = None,
    session: str | None = None,
    value: float | None = None,
    number: int = 0,
) -> dict[str, Any]:
    """Return one event; it arrives when it happens unless `arrived` says otherwise."""
    return {
        "event_id": f"{user}-{at.isoformat()}-{number:03d}-{item}-{kind}",
        "user_id": user,
        "session_id": session,
        "event_type": kind,
        "item_id": item,
        "value": value,
        "event_timestamp": at,
        "created_timestamp": arrived or at,
    }


def events_table(events: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(events, schema=EVENTS)


def tables_with(
    home: Path, events: list[dict[str, Any]], *, until: datetime, images: Mapping[str, str] | None = None
) -> TableStore:
    """Return tables below `home` to which a window with these events, up to `until`, was added.

    Args:
        images: What the catalogue calls the picture of an item.
    """
    tables = TableStore(home / "tables", quarantine=home / "quarantine", ingested=home / "ingested")
    window = IngestedWindow(
        window=window_id(until),
        since=tables.accepted_until(),
        until=until,
        source="hand",
        folder=home / "ingested" / window_id(until),
        rows={"items": 1, "events": len(events)},
    )
    window.folder.mkdir(parents=True)
    pq.write_table(events_table(events), window.folder / "events.parquet")
    items = {one["item_id"]: one["item_id"] for one in events if one["item_id"]}
    seen = images or {}
    rows = [
        {"item_id": item, "title": item, "image": seen.get(item), "available": True, "updated_at": DAY_ZERO}
        for item in items
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEMS), window.folder / "items.parquet")
    manifest = IngestedManifest(window=window, source_state={})
    write_text(window.folder / "window.json", manifest.model_dump_json())
    tables.accept(window, rejections={})
    return tables
