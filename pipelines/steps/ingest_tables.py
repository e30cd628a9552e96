"""Step: read everything that arrived since the last accepted window, in contract form, with pseudonyms."""

import shutil
from datetime import datetime
from typing import Protocol

import duckdb
import pyarrow as pa

from pipelines.errors import DataError
from pipelines.progress import Progress
from pipelines.pseudonyms import Pseudonymizer
from pipelines.schemas import EVENTS, TABLES, IngestedWindow
from pipelines.sources.base import Source, contract_query, timestamp
from pipelines.stores.files import replacing_folder, write_text
from pipelines.stores.sql import identifier, write_parquet
from pipelines.stores.table_store import IngestedManifest, TableStore, window_id

EVENT_LOG = "event_log"
_ID_BATCH = 50_000


class AcceptedEvents(Protocol):
    """The events that the service acknowledged."""

    def read(self, since: datetime | None, until: datetime) -> pa.Table:
        """Return the events that arrived in `(since, until]`, in the contract's form."""
        ...


def ingest_tables(
    source: Source,
    *,
    tables: TableStore,
    event_log: AcceptedEvents,
    pseudonymizer: Pseudonymizer,
    until: datetime,
    progress: Progress,
) -> IngestedWindow:
    """Write what arrived after the last accepted window, up to `until`, to a folder of its own.

    Nothing becomes visible to others before `validate_tables` accepts the window. Safe to run twice: the same
    window is written anew, and a window that was accepted already is returned as it is.

    Raises:
        ConfigError: the source is not set up right, or the tables were written with another pseudonym key.
        DataError: the source cannot be read, or the first window is empty.
    """
    pseudonymizer.require_key_of(tables.manifest().pseudonym_key, tables.folder)
    since = tables.accepted_until()
    if since is not None and until <= since:
        return _accepted_before(tables, source.name, until=since)
    window = window_id(until)
    _remove_accepted(tables)
    with replacing_folder(tables.ingested / window) as folder, tables.writing_connection() as connection:
        # Raw user ids pass through this connection: without a folder to spill to, they never reach the disk.
        connection.execute("SET temp_directory = ''")
        read = source.read(connection, since=since, until=until, state=tables.source_state(source.name))
        connection.execute("CREATE TEMP TABLE pseudonyms (raw VARCHAR PRIMARY KEY, pseudonym VARCHAR)")
        rows: dict[str, int] = {}
        queries = {**read.queries}
        queries.setdefault("events", f"SELECT * FROM ({contract_query('events', {}, '(SELECT 1)')}) WHERE false")
        for done, (table, query) in enumerate(queries.items(), start=1):
            try:
                if table in ("events", "users"):
                    _add_pseudonyms(connection, query, pseudonymizer)
                    query = _with_pseudonyms(query)
                if table == "events":
                    connection.register("logged_events", event_log.read(since, until))
                    query = f"{_with_event_ids(query)} UNION ALL {_logged_events()}"
                if since is not None:
                    arrival_known = read.arrival_known.get(table, True)
                    query = _unknown(table, query, since=since, until=until, arrival_known=arrival_known)
                count = write_parquet(connection, query, folder / f"{table}.parquet")
            except duckdb.Error as error:
                raise DataError(
                    f"The table {table} of the source `{source.name}` cannot be read: {' '.join(str(error).split())} "
                    "Mend the source, then run `headrace ingest_tables` again."
                ) from None
            if count:
                rows[table] = count
            else:
                (folder / f"{table}.parquet").unlink()
            progress.update("reading tables", done, len(queries), f"{table}: {count:,} rows")
        _refuse_empty_start(source.name, rows, since=since, until=until)
        result = IngestedWindow(
            window=window,
            since=since,
            until=until,
            source=source.name,
            folder=tables.ingested / window,
            rows=rows,
        )
        manifest = IngestedManifest(
            window=result,
            source_state=dict(read.state),
            left_out=dict(read.left_out),
            pseudonym_key=pseudonymizer.fingerprint,
        )
        write_text(folder / "window.json", manifest.model_dump_json(indent=2))
    return result


def _accepted_before(tables: TableStore, source: str, *, until: datetime) -> IngestedWindow:
    """Return the newest accepted window again: everything up to the moment asked for is in the tables."""
    window = window_id(until)
    done = tables.accepted_window(window)
    return IngestedWindow(
        window=window,
        since=done.since if done else until,
        until=until,
        source=source,
        folder=tables.ingested / window,
        rows={table: rows + done.quarantined.get(table, 0) for table, rows in done.accepted.items()} if done else {},
    )


def _remove_accepted(tables: TableStore) -> None:
    """Remove the ingested folders that are part of the tables by now, and what a killed call left."""
    until = tables.accepted_until()
    for folder in tables.ingested.glob("*"):
        if folder.name.startswith(".") or (until is not None and folder.name <= window_id(until)):
            shutil.rmtree(folder, ignore_errors=True)


def _add_pseudonyms(connection: duckdb.DuckDBPyConnection, query: str, pseudonymizer: Pseudonymizer) -> None:
    """Add the pseudonyms of the query's users to the table `pseudonyms`, each distinct id once."""
    new = connection.sql(
        f"SELECT DISTINCT user_id FROM ({query}) AS given ANTI JOIN pseudonyms ON raw = user_id WHERE user_id <> ''"
    ).to_arrow_table()
    for start in range(0, new.num_rows, _ID_BATCH):
        raw = new["user_id"].slice(start, _ID_BATCH).to_pylist()
        batch = pa.table({"raw": raw, "pseudonym": [pseudonymizer.pseudonym(user) for user in raw]})
        connection.register("pseudonym_batch", batch)
        connection.execute("INSERT INTO pseudonyms FROM pseudonym_batch")
        connection.unregister("pseudonym_batch")


def _with_pseudonyms(query: str) -> str:
    """Return the query with pseudonyms in place of the raw user ids; an empty id becomes null."""
    return (
        f"SELECT given.* REPLACE (pseudonym AS user_id) FROM ({query}) AS given "
        "LEFT JOIN pseudonyms ON raw = given.user_id"
    )


def _with_event_ids(query: str) -> str:
    """Return the query with an id made of the event's content where the source gives none."""
    content = ("user_id", "session_id", "event_type", "item_id", "query", "position", "value", "event_timestamp")
    parts = ", ".join(f"coalesce(CAST({name} AS VARCHAR), '')" for name in content)
    return f"SELECT * REPLACE (coalesce(event_id, md5(concat_ws('|', {parts}))) AS event_id) FROM ({query})"


def _unknown(table: str, query: str, *, since: datetime, until: datetime, arrival_known: bool) -> str:
    """Return the rows of the query that were neither accepted nor set aside in an earlier window."""
    if table == "events":
        known = "(SELECT event_id FROM events UNION ALL SELECT event_id FROM quarantined_events)"
        query = f"SELECT * FROM ({query}) AS new ANTI JOIN {known} AS old USING (event_id)"
        if arrival_known:
            return query
        # Seen for the first time although it happened before the last window ended: it arrived in this one.
        arrival = f"CASE WHEN event_timestamp <= {timestamp(since)} THEN {timestamp(until)} ELSE created_timestamp END"
        return f"SELECT * REPLACE ({arrival} AS created_timestamp) FROM ({query})"
    if arrival_known:
        return query
    content = [identifier(name) for name in TABLES[table].names if name != "updated_at"]
    known = " UNION ALL ".join(f"SELECT {', '.join(content)} FROM {name}" for name in (table, f"quarantined_{table}"))
    same = " AND ".join(
        f"CAST(new.{name} AS VARCHAR) IS NOT DISTINCT FROM CAST(old.{name} AS VARCHAR)" for name in content
    )
    return f"SELECT new.* FROM ({query}) AS new ANTI JOIN ({known}) AS old ON {same}"


def _logged_events() -> str:
    """Return the query of the event log's rows, each event once; their users are pseudonyms already.

    A client that saw no answer sends its events again, under the same ids: that is no fault in the data.
    """
    expressions = {name: identifier(name) for name in EVENTS.names}
    expressions |= {"row_number": "row_number() OVER ()", "source": f"'{EVENT_LOG}'"}
    once = "(FROM logged_events QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY created_timestamp) = 1)"
    return contract_query("events", expressions, once)


def _refuse_empty_start(source: str, rows: dict[str, int], *, since: datetime | None, until: datetime) -> None:
    if since is not None:
        return
    for table in ("items", "events"):
        if not rows.get(table):
            raise DataError(
                f"The source `{source}` has no {table} up to {until:%Y-%m-%d %H:%M} UTC, and the first window needs "
                "some: check the source's files and their timestamps, then run `headrace ingest_tables` again."
            )
