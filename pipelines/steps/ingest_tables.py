"""Step: read everything that arrived since the last accepted window, in contract form, with pseudonyms."""

import errno
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import PreparationConfig
from pipelines.errors import DataError
from pipelines.preparation.behavior import PreparedEvents, prepare_events
from pipelines.preparation.news import WindowNews, replayed_query
from pipelines.preparation.told_items import keep_said, said_by_source, stage_told, told_query
from pipelines.progress import Progress
from pipelines.pseudonyms import Pseudonymizer
from pipelines.schemas import EVENT_LOG, EVENTS, ITEM_LOG, TABLES, IngestedWindow
from pipelines.sources.base import Source, SourceTables, contract_query
from pipelines.sources.files import one_line
from pipelines.stores.files import replacing_folder, write_text
from pipelines.stores.sql import open_duckdb, quoted, write_parquet
from pipelines.stores.table_store import REMOVED_IDS, IngestedManifest, TableStore, window_id

STAMPED_BEFORE = "events: stamped before the last window ended, arrives now"
REPLAYED_IN_VAIN = "events: replayed, but accepted before"
_ID_BATCH = 50_000


class AcceptedEvents(Protocol):
    """The events that the service acknowledged."""

    def read_from(
        self, cursor: Mapping[str, Any] | None, until: datetime, *, since: datetime | None = None
    ) -> tuple[Iterable[pa.RecordBatch], Mapping[str, Any]]:
        """Return the events behind the cursor that arrived up to `until`, in the contract's form.

        The second value is the cursor to go on from: with it, the next call gives each later event once.
        """
        ...


class ToldItems(Protocol):
    """The items that the service was told of."""

    def behind(
        self, cursor: Mapping[str, Any] | None, until: datetime | None = None
    ) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Any]]:
        """Return the last state of each item that changed behind the cursor up to `until`, and the next cursor."""
        ...


def ingest_tables(
    source: Source,
    *,
    tables: TableStore,
    event_log: AcceptedEvents,
    item_log: ToldItems | None = None,
    pseudonymizer: Pseudonymizer,
    preparation: PreparationConfig,
    late_days: int,
    until: datetime,
    progress: Progress,
) -> IngestedWindow:
    """Write what arrived after the last accepted window, up to `until`, to a folder of its own.

    Events that were accepted or set aside before are left out, and the rules of `preparation` are applied. Nothing
    becomes visible to others before `validate_tables` accepts the window. Safe to run twice: the same window is
    written anew, and a window that was accepted already is returned as it is.

    Args:
        item_log: Items that the service was told of; None reads none.
        late_days: Days that may lie between an event and its arrival; ids are compared that far back.

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
    with replacing_folder(tables.ingested / window) as folder:
        with open_duckdb() as connection:  # without a folder to spill to: raw user ids never reach the disk
            # The rows of a stream, whose number DuckDB does not know, must not be what it holds in memory for a join.
            connection.execute("SET disabled_optimizers = 'build_side_probe_side'")
            read = source.read(connection, since=since, until=until, state=tables.source_state(source.name))
            staged = _stage_source(connection, source.name, read, folder, pseudonymizer, progress)
        batches, cursor = event_log.read_from(tables.source_state(EVENT_LOG) or None, until, since=since)
        logged = _spool(batches, folder / "log.staged.parquet")
        changes, items_cursor = _told(item_log, tables, until)
        told = stage_told(changes.values(), folder / "told.staged.parquet", since=since, until=until)
        replays = tables.pending_replays()
        with tables.writing_connection() as connection:
            news = WindowNews(connection, tables, read.arrival_known, since=since, until=until, late_days=late_days)
            mended = {table: [replay.files[table] for replay in replays if table in replay.files] for table in TABLES}
            again = mended.pop("events")
            in_vain = news.known_replays(again)
            events = _all_events(news, staged.pop("events", None), logged, again, folder)
            events, stamped_before = news.arriving_now(events)
            prepared = prepare_events(
                connection, events, preparation, since=since, until=until, known=news.recent_events()
            )
            rows = {"events": _finish(connection, events, prepared, folder)}
            for table, again in mended.items():
                if table == "items":
                    parts = _new_items(news, staged.get(table), told, tables.source_items, folder)
                else:
                    parts = [news.of_table(table, staged[table])] if table in staged else []
                parts += [replayed_query(table, file) for file in again]
                if parts:
                    rows[table] = write_parquet(connection, " UNION ALL ".join(parts), folder / f"{table}.parquet")
            for file in folder.glob("*.staged.parquet"):
                file.unlink()
        rows = {table: rows[table] for table in TABLES if rows.get(table)}
        for table in TABLES:
            if table not in rows:
                (folder / f"{table}.parquet").unlink(missing_ok=True)
        removed = {**read.left_out, **prepared.removed, REPLAYED_IN_VAIN: in_vain}
        _refuse_empty_start(source.name, rows, since=since, until=until)
        result = IngestedWindow(
            window=window,
            since=since,
            until=until,
            source=source.name,
            folder=tables.ingested / window,
            rows=rows,
            mended=_hit({**prepared.changed, STAMPED_BEFORE: stamped_before}),
            removed=_hit(removed),
        )
        manifest = IngestedManifest(
            window=result,
            source_state={
                source.name: dict(read.state),
                EVENT_LOG: dict(cursor),
                **({ITEM_LOG: dict(items_cursor)} if items_cursor else {}),
            },
            replays=tuple(replay.id for replay in replays),
            pseudonym_key=pseudonymizer.fingerprint,
        )
        write_text(folder / "window.json", manifest.model_dump_json(indent=2))
    return result


def _told(
    item_log: ToldItems | None, tables: TableStore, until: datetime
) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Any]]:
    return item_log.behind(tables.source_state(ITEM_LOG) or None, until) if item_log is not None else ({}, {})


def _new_items(news: WindowNews, staged: Path | None, told: Path | None, kept: Path | None, folder: Path) -> list[str]:
    """Return the queries of the items that the source gives and of those that were told of."""
    parts = []
    if staged is not None and news.says_arrival("items"):
        parts = [news.of_table("items", staged)]
    elif staged is not None:
        given = folder / "items.news.staged.parquet"
        write_parquet(news.connection, news.of_table("items", staged, said_by_source(kept)), given)
        keep_said(news.connection, folder, news=f"read_parquet({quoted(given)})", told=told, kept=kept)
        parts = [f"SELECT * FROM read_parquet({quoted(given)})"]
        if told is not None:  # the source gives no time: it may have been before that
            parts[0] += f" AS given ANTI JOIN read_parquet({quoted(told)}) AS told USING (item_id)"
    return [*parts, told_query(told, staged)] if told is not None else parts


def _hit(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the rules that met a row."""
    return {rule: rows for rule, rows in counts.items() if rows}


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


def _stage_source(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    read: SourceTables,
    folder: Path,
    pseudonymizer: Pseudonymizer,
    progress: Progress,
) -> dict[str, Path]:
    """Write what the source gives, with pseudonyms and event ids, and return the file of each table.

    Raises:
        DataError: a table cannot be read.
    """
    connection.execute("CREATE TEMP TABLE pseudonyms (raw VARCHAR PRIMARY KEY, pseudonym VARCHAR)")
    staged = {}
    for done, (table, query) in enumerate(read.queries.items(), start=1):
        file = folder / f"{table}.staged.parquet"
        try:
            if table in ("events", "users"):
                _add_pseudonyms(connection, query, pseudonymizer)
                query = _with_pseudonyms(query)
            if table == "events":
                query = _with_event_ids(query)
            count = write_parquet(connection, query, file)
        except duckdb.Error as error:
            if os.strerror(errno.ENOSPC) in str(error):  # nothing is wrong with the source
                raise
            raise DataError(
                f"The table {table} of the source `{source}` ({read.described.get(table, 'its data')}) cannot be read: "
                f"{one_line(error)} "
                "Mend the source, then run `headrace ingest_tables` again."
            ) from None
        staged[table] = file
        progress.update("reading tables", done, len(read.queries), f"{table}: {count:,} rows")
    return staged


def _spool(batches: Iterable[pa.RecordBatch], file: Path) -> Path | None:
    """Write the log's events to a file, batch by batch; None where there are none."""
    writer = None
    try:
        for batch in batches:
            writer = writer or pq.ParquetWriter(file, EVENTS, compression="zstd")
            writer.write_batch(batch)
    finally:
        if writer:
            writer.close()
    return file if writer else None


def _all_events(
    news: WindowNews, staged: Path | None, logged: Path | None, replayed: Sequence[Path], folder: Path
) -> Path:
    """Write the new events of the source, of the log and those mended in quarantine to one file."""
    if staged and not logged and not replayed and news.everything:
        return staged
    parts = [news.of_events(f"read_parquet({quoted(staged)})")] if staged else []
    if logged:
        parts.append(news.of_events(f"({news.of_log(logged)})", arrival_known=True))
    parts += [news.of_replay(file) for file in replayed]
    file = folder / "all.staged.parquet"
    parts = parts or [f"SELECT * FROM ({contract_query('events', {}, '(SELECT 1)')}) WHERE false"]
    write_parquet(news.connection, " UNION ALL ".join(parts), file)
    for done in (staged, logged):
        if done:
            done.unlink()
    return file


def _finish(connection: duckdb.DuckDBPyConnection, events: Path, prepared: PreparedEvents, folder: Path) -> int:
    """Write the prepared events, and the ids of those removed, and return how many events there are."""
    target = folder / "events.parquet"
    if prepared.unchanged:
        events.rename(target)
        return prepared.rows
    write_parquet(connection, prepared.query, target)
    if prepared.removed:  # or they would be new the next time that they are read
        kept = f"read_parquet({quoted(target)}) AS kept"
        gone = f"SELECT given.event_id FROM read_parquet({quoted(events)}) AS given ANTI JOIN {kept} USING (event_id)"
        write_parquet(connection, gone, folder / REMOVED_IDS)
    events.unlink()
    return prepared.rows


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
    values = {"event_timestamp": "coalesce(event_timestamp, created_timestamp)"}
    parts = ", ".join(f"coalesce(CAST({values.get(name, name)} AS VARCHAR), '')" for name in content)
    return f"SELECT * REPLACE (coalesce(event_id, md5(concat_ws('|', {parts}))) AS event_id) FROM ({query})"


def _refuse_empty_start(source: str, rows: dict[str, int], *, since: datetime | None, until: datetime) -> None:
    if since is not None:
        return
    for table in ("items", "events"):
        if not rows.get(table):
            raise DataError(
                f"The source `{source}` has no {table} up to {until:%Y-%m-%d %H:%M} UTC, and the first window needs "
                "some: check the source's files and their timestamps, then run `headrace ingest_tables` again."
            )
