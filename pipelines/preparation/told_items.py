"""What a window takes from the log of items, beside what the source says: DuckDB SQL over staged Parquet files.

An item that was told of is as it was told until the source says something new of it. A source that stamps its rows says
so by `updated_at`. One that gives its whole catalogue each time says so by another row than last time: what it said of
the items that were told of is kept beside the table, or its old row would undo what was told at every reading.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schemas import ITEM_LOG, ITEMS
from pipelines.sources.base import contract_query
from pipelines.stores.event_rows import ARRIVAL
from pipelines.stores.item_log import DELETED
from pipelines.stores.sql import identifier, quoted, write_parquet
from pipelines.stores.table_store import SOURCE_ITEMS

_STAGED = pa.schema([*ITEMS.remove(ITEMS.get_field_index("title")), pa.field("title", pa.string())])
_BATCH = 10_000
_NAMES = ", ".join(identifier(name) for name in ITEMS.names)


def stage_told(
    changes: Iterable[Mapping[str, Any]], file: Path, *, since: datetime | None, until: datetime
) -> Path | None:
    """Write the last state of each item to a file; None where there is none.

    A deleted item is an unavailable one: events refer to it. What was told arrives in the window, whatever its stamp.
    """
    rows = [_row(change, since, until) for change in changes]
    if not rows:
        return None
    with pq.ParquetWriter(file, _STAGED, compression="zstd") as writer:
        for start in range(0, len(rows), _BATCH):
            writer.write_table(pa.Table.from_pylist(rows[start : start + _BATCH], schema=_STAGED))
    return file


def _row(change: Mapping[str, Any], since: datetime | None, until: datetime) -> dict[str, Any]:
    arrival = min(datetime.fromisoformat(change[ARRIVAL]), until)
    if since is not None:
        arrival = max(arrival, since + timedelta(microseconds=1))
    attributes = list(change["attributes"].items()) if change.get("attributes") else None
    available = bool(change.get("available", True)) and not change.get(DELETED)
    return {**change, "attributes": attributes, "available": available, "updated_at": arrival}


def told_query(told: Path, given: Path | None) -> str:
    """Return what was told, in contract form.

    Of an item that was only deleted the rest comes from the source's staged rows, else from the table; one that is in
    neither stays unknown.

    Args:
        given: What the source gives in this window.
    """
    rows = f"(SELECT *, row_number() OVER () AS place FROM read_parquet({quoted(told)}))"
    known = f"SELECT {_NAMES}, 1 AS age FROM items"
    if given is not None:
        known += f" UNION ALL SELECT {_NAMES}, 0 AS age FROM read_parquet({quoted(given)}) WHERE item_id IS NOT NULL"
    deleted = (
        f"SELECT known.* EXCLUDE (age) REPLACE (false AS available, told.updated_at AS updated_at), place "
        f"FROM ({known}) AS known JOIN {rows} AS told USING (item_id) WHERE told.title IS NULL "
        "QUALIFY row_number() OVER (PARTITION BY known.item_id ORDER BY age, known.updated_at DESC) = 1"
    )
    relation = f"(SELECT {_NAMES}, place FROM {rows} WHERE title IS NOT NULL UNION ALL {deleted})"
    expressions = {name: identifier(name) for name in ITEMS.names}
    return contract_query("items", expressions | {"row_number": "place", "source": quoted(ITEM_LOG)}, relation)


def said_by_source(kept: Path | None) -> str:
    """Return the items as the source said them last: a relation.

    Args:
        kept: What it had said of items that were told of since.
    """
    if kept is None:
        return "items"
    said = f"read_parquet({quoted(kept)})"
    return f"(SELECT * FROM items ANTI JOIN {said} AS said USING (item_id) UNION ALL SELECT * FROM {said})"


def keep_said(
    connection: duckdb.DuckDBPyConnection, folder: Path, *, news: str | None, told: Path | None, kept: Path | None
) -> None:
    """Write beside the window what the source has said of the items that were told of.

    Args:
        news: What it says anew: a relation.
    """
    if told is None and kept is None:
        return
    ids = f"(SELECT item_id FROM read_parquet({quoted(told)}))" if told else "(SELECT NULL AS item_id WHERE false)"
    anew = f"(SELECT {_NAMES} FROM {news})" if news else f"(SELECT {_NAMES} FROM items WHERE false)"
    before = f"read_parquet({quoted(kept)})" if kept else "(SELECT * FROM items WHERE false)"
    parts = [
        f"SELECT * FROM {anew} AS anew SEMI JOIN {ids} AS told USING (item_id)",
        f"SELECT * FROM {before} AS before ANTI JOIN {anew} AS anew USING (item_id)",
        f"SELECT {_NAMES} FROM items SEMI JOIN {ids} AS told USING (item_id) "
        f"ANTI JOIN {before} AS before USING (item_id) ANTI JOIN {anew} AS anew USING (item_id)",
    ]
    write_parquet(connection, " UNION ALL ".join(f"({part})" for part in parts), folder / SOURCE_ITEMS)
