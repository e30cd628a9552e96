"""What a window brings that is neither in the tables nor in quarantine: DuckDB SQL over staged Parquet files."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

from pipelines.schemas import EVENT_LOG, EVENTS, TABLES
from pipelines.sources.base import contract_query, timestamp
from pipelines.stores.sql import identifier, quoted, quoted_list, scalar, write_parquet
from pipelines.stores.table_store import KEYS, TableStore


class WindowNews:
    """Tells what a window brings from what is in the tables, or in quarantine, already."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        tables: TableStore,
        arrival_known: Mapping[str, bool],
        *,
        since: datetime | None,
        until: datetime,
        late_days: int,
    ) -> None:
        self.connection = connection
        self._tables = tables
        self._arrival_known = arrival_known
        self._since = since
        self._until = until
        self._horizon = None if since is None else since - timedelta(days=late_days)

    @property
    def everything(self) -> bool:
        """Whether there is nothing yet to compare with."""
        return self._since is None

    def recent_events(self) -> str | None:
        """Return the events that arrived lately, as a relation; None before the first window."""
        files = self._tables.events_since(self._horizon) if self._since else []
        return f"read_parquet({quoted_list(files)})" if files else None

    def of_log(self, file: Path) -> str:
        """Return the log's events, each once; their users are pseudonyms already.

        A client that saw no answer sends its events again, under the same ids: that is no fault in the data. What was
        on its way when the last window ended, or came with an arrival of its own, arrives in this one.
        """
        expressions = {name: identifier(name) for name in EVENTS.names}
        arrival = f"least(created_timestamp, {timestamp(self._until)})"
        if self._since:
            arrival = f"greatest({arrival}, {timestamp(self._since)} + INTERVAL 1 MICROSECOND)"
        expressions |= {"row_number": "row_number() OVER ()", "source": quoted(EVENT_LOG), "created_timestamp": arrival}
        first = "row_number() OVER (PARTITION BY event_id ORDER BY created_timestamp) = 1"
        return contract_query("events", expressions, f"(FROM read_parquet({quoted(file)}) QUALIFY {first})")

    def arriving_now(self, events: Path) -> tuple[Path, int]:
        """Return the file in which what is stamped before the last window's end arrives now, and how many rows are.

        They were not there when that window was read: taken at their word, they would change what was known then.
        """
        if self._since is None:
            return events, 0
        before = f"created_timestamp <= {timestamp(self._since)}"
        rows = int(scalar(self.connection, f"SELECT count(*) FROM read_parquet({quoted(events)}) WHERE {before}"))
        if not rows:
            return events, 0
        arrival = f"CASE WHEN {before} THEN {timestamp(self._until)} ELSE created_timestamp END AS created_timestamp"
        now = events.with_name("now.staged.parquet")
        write_parquet(self.connection, f"SELECT * REPLACE ({arrival}) FROM read_parquet({quoted(events)})", now)
        events.unlink()
        return now, rows

    def known_replays(self, files: Sequence[Path]) -> int:
        """Return how many of the mended events were accepted before."""
        known = self._tables.events_since(None)
        if not files or not known:
            return 0
        given = f"read_parquet({quoted_list(files)}) AS given"
        both = f"{given} SEMI JOIN read_parquet({quoted_list(known)}) AS known USING (event_id)"
        return int(scalar(self.connection, f"SELECT count(*) FROM {both}"))

    def of_replay(self, file: Path) -> str:
        """Return mended events, which arrive now; that they lie in quarantine does not count."""
        query = f"SELECT * FROM ({replayed_query('events', file)})"
        if files := self._tables.events_since(None):
            query += f" AS new ANTI JOIN read_parquet({quoted_list(files)}) AS old USING (event_id)"
        return f"SELECT * REPLACE ({timestamp(self._until)} AS created_timestamp) FROM ({query})"

    def of_events(self, relation: str, *, arrival_known: bool | None = None) -> str:
        """Return the events whose ids are new.

        A row whose arrival is not known is given each time, so that all ids count, not those of late.
        """
        query = f"SELECT * FROM {relation}"
        if self._since is None:
            return query
        known = self._arrival_known.get("events", True) if arrival_known is None else arrival_known
        since = self._horizon if known and (arrival_known or not self._undated(relation)) else None
        files = self._tables.known_ids(since)
        if files:
            ids = f"(SELECT event_id FROM read_parquet({quoted_list(files)}, union_by_name = true))"
            query += f" AS new ANTI JOIN {ids} AS old USING (event_id)"
        if known:
            return query
        # Seen for the first time although it happened before the last window ended: it arrived in this one.
        arrival = (
            f"CASE WHEN event_timestamp <= {timestamp(self._since)} THEN {timestamp(self._until)} "
            "ELSE created_timestamp END"
        )
        return f"SELECT * REPLACE ({arrival} AS created_timestamp) FROM ({query})"

    def _newer(self, table: str, query: str) -> str:
        """Return the rows stamped since the last window, and of those before the ones that are news all the same."""
        before = f"updated_at <= {timestamp(self._since)}" if self._since else "false"
        newer = "old.item_id = new.item_id AND old.updated_at >= new.updated_at"
        late = f"SELECT new.* FROM ({query}) AS new ANTI JOIN {table} AS old ON {newer} WHERE new.{before}"
        if files := self._tables.quarantine_files(table):
            aside = f"read_parquet({quoted_list(files)}, union_by_name = true)"
            same = "old.item_id IS NOT DISTINCT FROM new.item_id AND old.updated_at = new.updated_at"
            late = f"SELECT new.* FROM ({late}) AS new ANTI JOIN {aside} AS old ON {same}"
        return f"SELECT * FROM ({query}) WHERE ({before}) IS NOT TRUE UNION ALL {late}"

    def _undated(self, relation: str) -> bool:
        """Return whether some row does not say when it arrived, or cannot."""
        found = self.connection.execute(f"SELECT 1 FROM {relation} WHERE created_timestamp IS NULL LIMIT 1")
        return bool(found.fetchall())

    def says_arrival(self, table: str) -> bool:
        """Whether the source's rows of the table say when they arrived."""
        return self._arrival_known.get(table, True)

    def of_table(self, table: str, file: Path, known: str | None = None) -> str:
        """Return the rows of another table that say something new.

        Args:
            known: The rows as the source gave them last, a relation, where those of the table come from elsewhere.
        """
        query = f"SELECT * FROM read_parquet({quoted(file)})"
        if self._since is None:
            return query
        if self.says_arrival(table):
            return self._newer(table, query) if table == "items" else query
        content = [identifier(name) for name in TABLES[table].names if name != "updated_at"]
        columns = ", ".join(content)
        same = " AND ".join(
            f"CAST(new.{name} AS VARCHAR) IS NOT DISTINCT FROM CAST(old.{name} AS VARCHAR)" for name in content
        )
        if files := self._tables.quarantine_files(table):
            aside = f"SELECT {columns} FROM read_parquet({quoted_list(files)}, union_by_name = true)"
            query = f"SELECT new.* FROM ({query}) AS new ANTI JOIN ({aside}) AS old ON {same}"
        fresh = f"SELECT new.* FROM ({query}) AS new ANTI JOIN {known or table} AS old ON {same}"
        # With all the rows of its key: of two in the source the first is taken, whichever of them is known.
        key = " AND ".join(f"new.{name} IS NOT DISTINCT FROM fresh.{name}" for name in KEYS[table])
        rows = f"SELECT new.* FROM ({query}) AS new SEMI JOIN ({fresh}) AS fresh ON {key}"
        return f"SELECT * FROM ({rows} ORDER BY new.source, new.row_number)"


def replayed_query(table: str, file: Path) -> str:
    """Return the rows that a person mended in quarantine, in contract form; their users are pseudonyms already."""
    names = [*TABLES[table].names, "row_number", "source"]
    return contract_query(table, {name: identifier(name) for name in names}, f"read_parquet({quoted(file)})")
