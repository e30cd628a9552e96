"""The tables of the data contract on disk: windows that were accepted, and the rows that were not.

tables/manifest.json                  what is valid; written last, so that a killed step leaves the old state
tables/items/<window>.parquet         the whole catalogue as of that window; the manifest names the newest
tables/users/…, judgements/…          the same
tables/events/<day>.<window>.parquet  the events that arrived on that UTC day, in the order of arrival
tables/removed/<window>.parquet       ids of events that preparation took out of a window
tables/source_items/<window>.parquet  what the source had said of items that the service was told of since
quarantine/<window>/<table>.parquet
ingested/<window>/<table>.parquet, window.json

Arrival is the clock: a window holds what arrived in a span of time, so it adds days and touches none but the newest
of those that were there. What it costs depends on the window and not on the history before it.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from pipelines.errors import DataError, StoreError
from pipelines.schemas import TABLES, IngestedWindow, Record
from pipelines.stores.files import file_sha256, replacing_file, text_sha256, write_text
from pipelines.stores.quarantine import REPLAYS, Replay, pending_replays
from pipelines.stores.sql import (
    DEFAULT_MEMORY_MIB,
    empty_select,
    identifier,
    open_duckdb,
    quoted,
    quoted_list,
    scalar,
    write_parquet,
)

KEYS = {"items": ("item_id",), "users": ("user_id",), "judgements": ("query", "item_id")}
"""Tables in which a newer row takes the place of an older one, and what tells them apart."""
REJECTIONS = pa.schema([("row_id", pa.int64()), ("rule", pa.string()), ("reason", pa.string())])
"""Rows of an ingested table that are set aside: `row_id` is the row's place in the ingested file, from 0."""
REMOVED_IDS = "removed.parquet"
"""File of an ingested window: `event_id` of what preparation took out."""
SOURCE_ITEMS = "source_items.parquet"
"""File of an ingested window: what the source had said of items that the service was told of since."""
FORMAT = 2
_CHUNK_ROWS = 1_500_000
"""Events that are sorted in memory at once."""
_PROFILES_KEPT = 60
"""Windows that keep their profile: the manifest is read often."""


class TableFile(Record):
    """One Parquet file of a table."""

    path: str = Field(description="Relative to the tables folder.")
    rows: int
    sha256: str


class AcceptedWindow(Record):
    """What one window added."""

    window: str
    since: datetime | None
    until: datetime
    source: str
    accepted: dict[str, int] = Field(description="New rows per table.")
    quarantined: dict[str, int]
    reasons: dict[str, int] = Field(description="Quarantined rows by '<table>: <reason>'.")
    mended: dict[str, int] = Field(default={}, description="Rows that preparation changed, by '<table>: <rule>'.")
    removed: dict[str, int] = Field(default={}, description="Rows that were left out, by '<table>: <rule>'.")
    removed_ids: TableFile | None = Field(default=None, description="Ids of the events that preparation took out.")
    profile: dict[str, Any] | None = Field(default=None, description="What the rows looked like; of late windows only.")
    replays: tuple[str, ...] = Field(default=(), description="Mended rows of quarantine that the window held.")


class TableManifest(Record):
    """The state of all tables."""

    format: int = FORMAT
    accepted_until: datetime | None = None
    windows: tuple[AcceptedWindow, ...] = ()
    events: dict[str, TableFile] = Field(default={}, description="Arrival day (UTC) -> its events, oldest day first.")
    current: dict[str, TableFile] = Field(default={}, description="Newest file of items, users, judgements.")
    source_items: TableFile | None = Field(
        default=None, description="What the source had said of items that the service was told of since."
    )
    source_state: dict[str, dict[str, Any]] = Field(default={}, description="What each source wants to find again.")
    pseudonym_key: str | None = Field(
        default=None, description="Fingerprint of the key behind the pseudonyms; None in tables of older versions."
    )


class IngestedManifest(Record):
    """What `ingest_tables` left beside the tables of a window."""

    window: IngestedWindow
    source_state: dict[str, dict[str, Any]] = Field(description="What each source wants to find again.")
    replays: tuple[str, ...] = Field(default=(), description="Mended rows of quarantine that the window holds.")
    pseudonym_key: str | None = Field(default=None, description="Fingerprint of the key behind the pseudonyms.")


def arrival_day(moment: datetime) -> str:
    """Return the UTC day of a moment, such as `2026-01-31`."""
    return moment.astimezone(UTC).date().isoformat()


def window_id(until: datetime) -> str:
    """Return the id of the window that ends at `until`: sortable by time, a valid file name."""
    return until.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


class TableStore:
    """Reads and writes the tables. One writer at a time; readers see the last accepted state."""

    def __init__(self, folder: Path, *, quarantine: Path, ingested: Path) -> None:
        self.folder = folder
        self.quarantine = quarantine
        self.ingested = ingested
        self._read: tuple[tuple[int, int, int], TableManifest] | None = None

    # What is accepted

    def manifest(self) -> TableManifest:
        """Return the accepted state; an empty one where nothing was accepted yet.

        Raises:
            StoreError: the manifest was changed by hand or by another version.
        """
        path = self.folder / "manifest.json"
        try:
            found = path.stat()
        except FileNotFoundError:
            return TableManifest()
        # It names every window there was, and a step asks for it a dozen times.
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._read is None or self._read[0] != identity:
            self._read = (identity, self._read_manifest(path))
        return self._read[1]

    def accepted_until(self) -> datetime | None:
        """Return the end of the newest accepted window; None before the first."""
        return self.manifest().accepted_until

    def fingerprint(self) -> str:
        """Return a SHA-256 (64 hex digits) over the files of all accepted tables.

        Raises:
            DataError: nothing was accepted yet.
        """
        manifest = self._accepted()
        lines = [f"events {day} {file.sha256}" for day, file in sorted(manifest.events.items())]
        lines += [f"{table} {file.sha256}" for table, file in sorted(manifest.current.items())]
        return text_sha256(*lines)

    @property
    def items_path(self) -> Path:
        """The catalogue, one row an item, sorted by `item_id`."""
        return self._current_path("items")

    @property
    def users_path(self) -> Path | None:
        """The users, where the source has them."""
        file = self._accepted().current.get("users")
        return self.folder / file.path if file else None

    @property
    def source_items(self) -> Path | None:
        """What the source had said of items that the service was told of since, in the form of the items."""
        file = self.manifest().source_items
        return self.folder / file.path if file else None

    def event_days(self) -> dict[str, TableFile]:
        """Return the file of each arrival day (`2026-01-31`, UTC), oldest day first.

        Its rows are sorted by `created_timestamp`, `event_timestamp`, `event_id`; the hash tells whether it changed.
        """
        return dict(sorted(self.manifest().events.items()))

    def event_file(self, day: str) -> Path:
        """Return where the events lie that arrived on the day.

        Raises:
            KeyError: none did.
        """
        return self.folder / self.manifest().events[day].path

    def events_since(self, moment: datetime | None) -> list[Path]:
        """Return the files of the arrival days from that of the moment on; all of them for None."""
        first = arrival_day(moment) if moment else ""
        return [self.folder / file.path for day, file in self.event_days().items() if day >= first]

    def connect(
        self, *, days: Iterable[str] | None = None, memory_limit_mib: int = DEFAULT_MEMORY_MIB
    ) -> duckdb.DuckDBPyConnection:
        """Open DuckDB with the views `items`, `events`, `users` and `judgements` in contract form.

        Close it, or use it as a context manager. What does not fit in memory is spilled below the tables folder.

        Args:
            days: Arrival days that `events` is limited to; all of them where it is None.

        Raises:
            DataError: nothing was accepted yet.
        """
        self._accepted()
        return self._connect(memory_limit_mib, None if days is None else set(days))

    def source_state(self, source: str) -> Mapping[str, Any]:
        """Return what the source left with the last accepted window."""
        return self.manifest().source_state.get(source, {})

    # Windows on their way in

    @contextmanager
    def writing_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection with the views of `connect`, empty ones where nothing was accepted yet.

        Beside each view `<table>` stands `quarantined_<table>`, the rows that were set aside in any window.
        """
        connection = self._connect(DEFAULT_MEMORY_MIB)
        try:
            yield connection
        finally:
            connection.close()

    def ingested_manifest(self, window: IngestedWindow) -> IngestedManifest:
        """Return what was read for the window.

        Raises:
            DataError: its folder is gone.
        """
        path = window.folder / "window.json"
        if not path.is_file():
            raise DataError(
                f"The ingested window {window.window} is not at {window.folder} any more: "
                "run `headrace ingest_tables` again."
            )
        return IngestedManifest.model_validate_json(path.read_text(encoding="utf-8"))

    def accepted_window(self, window: str) -> AcceptedWindow | None:
        """Return what the window added; None where it was not accepted (or was empty)."""
        return next((accepted for accepted in self.manifest().windows if accepted.window == window), None)

    def pending_replays(self) -> list[Replay]:
        """Return the mended rows of quarantine that no accepted window held yet, oldest first."""
        done = {replay for window in self.manifest().windows for replay in window.replays}
        return pending_replays(self.quarantine, done=done)

    def known_ids(self, since: datetime | None) -> list[Path]:
        """Return the files with the `event_id` of all that was accepted, set aside or removed since then."""
        removed = [
            self.folder / window.removed_ids.path
            for window in self.manifest().windows
            if window.removed_ids and (since is None or window.until > since)
        ]
        return [*self.events_since(since), *self.quarantine_files("events", since=since), *removed]

    def quarantine_files(self, table: str, *, since: datetime | None = None) -> list[Path]:
        """Return the files of the table's rows that were set aside in windows that ended after `since`."""
        return [
            self.quarantine / window.window / f"{table}.parquet"
            for window in self.manifest().windows
            if window.quarantined.get(table) and (since is None or window.until > since)
        ]

    def accept(
        self,
        window: IngestedWindow,
        *,
        rejections: Mapping[str, pa.Table],
        profile: dict[str, Any] | None = None,
    ) -> AcceptedWindow:
        """Add the window's rows to the tables, all but the rejected ones, which go to quarantine.

        Events whose `event_id` was accepted since the window was read are left out. The manifest is written last: a
        killed call leaves the old state, and the same call again ends in the same state as an undisturbed one. Files
        that the new state does not need stay until the next window, for those who are reading them.

        Args:
            rejections: Table name -> rows to set aside, in the form of `REJECTIONS`; a row may appear once a rule.
            profile: What the accepted rows look like, for the windows to come.

        Raises:
            DataError: the window's folder is gone.
        """
        if done := self.accepted_window(window.window):
            return done
        manifest = self.manifest()
        ingested = self.ingested_manifest(window)
        self._remove_strangers(manifest)
        accepted: dict[str, int] = {}
        quarantined: dict[str, int] = {}
        reasons: dict[str, int] = {}
        current = dict(manifest.current)
        events = dict(manifest.events)
        with self.writing_connection() as connection:
            for table in window.rows:
                file = window.folder / f"{table}.parquet"
                connection.register("rejected", rejections.get(table, REJECTIONS.empty_table()))
                if count := self._set_aside(connection, file, self.quarantine / window.window / f"{table}.parquet"):
                    quarantined[table] = count
                    for reason, rows in connection.execute(
                        "SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY reason"
                    ).fetchall():
                        reasons[f"{table}: {reason}"] = rows
                kept = _kept(file, count)
                if table == "events":
                    accepted[table] = self._add_events(connection, kept, window, events)
                else:
                    accepted[table] = int(scalar(connection, f"SELECT count(*) FROM {kept}"))
                    if accepted[table]:
                        current[table] = self._merge(connection, kept, table, window.window)
                connection.unregister("rejected")
        result = AcceptedWindow(
            window=window.window,
            since=window.since,
            until=window.until,
            source=window.source,
            accepted=accepted,
            quarantined=quarantined,
            reasons=reasons,
            mended=window.mended,
            removed=window.removed,
            removed_ids=self._keep_removed(window),
            profile=profile,
            replays=ingested.replays,
        )
        windows = tuple(
            old.model_copy(update={"profile": None}) if place >= _PROFILES_KEPT else old
            for place, old in enumerate(reversed(manifest.windows), start=1)
        )[::-1]
        newest = max(filter(None, (manifest.accepted_until, window.until)))
        written = TableManifest(
            accepted_until=newest,
            windows=(*windows, result) if window.rows or ingested.replays else windows,
            events=dict(sorted(events.items())),
            current=current,
            source_items=self._keep_source_items(window) or manifest.source_items,
            source_state={**manifest.source_state, **ingested.source_state},
            pseudonym_key=manifest.pseudonym_key or ingested.pseudonym_key,
        )
        write_text(self.folder / "manifest.json", written.model_dump_json(indent=2))
        return result

    # Inside

    def _read_manifest(self, path: Path) -> TableManifest:
        try:
            text = path.read_text(encoding="utf-8")
            found = json.loads(text).get("format", FORMAT)
            if found != FORMAT:
                raise StoreError(
                    f"{path} has the format {found}, this version reads {FORMAT}: move {self.folder} away, then "
                    "`headrace ingest_tables` builds the tables again from the source and the event log."
                )
            return TableManifest.model_validate_json(text)
        except (ValueError, AttributeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise StoreError(
                f"{path} cannot be read ({reason}): put the file back from a backup, or move "
                f"{self.folder} away and run `headrace ingest_tables` to build the tables again."
            ) from None

    def _accepted(self) -> TableManifest:
        manifest = self.manifest()
        if "items" not in manifest.current:
            raise DataError(
                f"There are no tables in {self.folder} yet: "
                "run `headrace ingest_tables`, then `headrace validate_tables`."
            )
        return manifest

    def _current_path(self, table: str) -> Path:
        return self.folder / self._accepted().current[table].path

    def _connect(self, memory_limit_mib: int, days: set[str] | None = None) -> duckdb.DuckDBPyConnection:
        manifest = self.manifest()
        self.folder.mkdir(parents=True, exist_ok=True)
        connection = open_duckdb(memory_limit_mib=memory_limit_mib, spill=self.folder / ".spill")
        for table, schema in TABLES.items():
            if table == "events":
                wanted = [day for day in sorted(manifest.events) if days is None or day in days]
                files = [self.folder / manifest.events[day].path for day in wanted]
            else:
                files = [self.folder / manifest.current[table].path] if table in manifest.current else []
            query = f"SELECT * FROM read_parquet({quoted_list(files)})" if files else empty_select(schema)
            connection.execute(f"CREATE VIEW {table} AS {query}")
        return connection

    def _keep_removed(self, window: IngestedWindow) -> TableFile | None:
        """Keep the ids of what preparation took out: read again, they are nothing new."""
        given = window.folder / REMOVED_IDS
        if not given.exists():
            return None
        target = self.folder / "removed" / f"{window.window}.parquet"
        with replacing_file(target) as temporary:
            shutil.copyfile(given, temporary)
        return self._table_file(target, pq.read_metadata(target).num_rows)

    def _keep_source_items(self, window: IngestedWindow) -> TableFile | None:
        given = window.folder / SOURCE_ITEMS
        if not given.exists():
            return None
        target = self.folder / "source_items" / f"{window.window}.parquet"
        with replacing_file(target) as temporary:
            shutil.copyfile(given, temporary)
        return self._table_file(target, pq.read_metadata(target).num_rows)

    def _set_aside(self, connection: duckdb.DuckDBPyConnection, file: Path, target: Path) -> int:
        """Write the rejected rows with their reasons, one a row and rule; return how many rows they are."""
        count = int(scalar(connection, "SELECT count(DISTINCT row_id) FROM rejected"))
        if not count:
            return 0
        with replacing_file(target) as temporary:
            write_parquet(
                connection,
                f"SELECT ingested.* EXCLUDE (file_row_number), rule, reason "
                f"FROM read_parquet({quoted(file)}, file_row_number = true) AS ingested "
                "JOIN rejected ON row_id = file_row_number ORDER BY row_id, rule",
                temporary,
            )
        return count

    def _add_events(
        self, connection: duckdb.DuckDBPyConnection, kept: str, window: IngestedWindow, events: dict[str, TableFile]
    ) -> int:
        """Write the days that the window touches, put them into `events`, and return how many events are new."""
        # What was accepted while the window was on its way; before that, reading it has looked.
        since = arrival_day(window.since) if window.since else ""
        between = [self.folder / file.path for day, file in events.items() if day >= since]
        if between:
            kept = (
                f"(SELECT * FROM {kept} AS new ANTI JOIN read_parquet({quoted_list(between)}) AS old USING (event_id))"
            )
        daily = connection.execute(
            f"SELECT strftime(created_timestamp, '%Y-%m-%d') AS day, count(*) FROM {kept} GROUP BY day ORDER BY day"
        ).fetchall()
        for days in _chunks(daily):
            self._write_days(connection, kept, days, window.window, events)
        return sum(rows for _, rows in daily)

    def _write_days(
        self,
        connection: duckdb.DuckDBPyConnection,
        kept: str,
        days: list[str],
        window: str,
        events: dict[str, TableFile],
    ) -> None:
        """Write the files of these days: what was there and what is new."""
        columns = _columns("events")
        known = [self.folder / events[day].path for day in days if day in events]
        rows = f"SELECT {columns} FROM {kept} WHERE {_arrived(days[0], days[-1])}"
        if known:
            rows += f" UNION ALL SELECT {columns} FROM read_parquet({quoted_list(known)})"
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE touched AS {rows} ORDER BY created_timestamp, event_timestamp, event_id"
        )
        for day in days:
            target = self.folder / "events" / f"{day}.{window}.parquet"
            with replacing_file(target) as temporary:
                count = write_parquet(connection, f"SELECT * FROM touched WHERE {_arrived(day, day)}", temporary)
            events[day] = self._table_file(target, count)
        connection.execute("DROP TABLE touched")

    def _merge(self, connection: duckdb.DuckDBPyConnection, kept: str, table: str, window: str) -> TableFile:
        """Write the whole table anew: of two rows with one key the newer stays, by `updated_at`, else by window."""
        target = self.folder / table / f"{window}.parquet"
        columns, keys = _columns(table), ", ".join(KEYS[table])
        newest = "updated_at DESC, " if table == "items" else ""
        with replacing_file(target) as temporary:
            rows = write_parquet(
                connection,
                f"SELECT {columns} FROM (SELECT {columns}, 0 AS age FROM {kept} "
                f"UNION ALL SELECT {columns}, 1 AS age FROM {table}) "
                f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {newest}age) = 1 ORDER BY {keys}",
                temporary,
            )
        return self._table_file(target, rows)

    def _table_file(self, path: Path, rows: int) -> TableFile:
        return TableFile(path=str(path.relative_to(self.folder)), rows=rows, sha256=file_sha256(path))

    def _remove_strangers(self, manifest: TableManifest) -> None:
        """Remove files that the manifest does not know: older catalogues, and what a killed call left."""
        known = {file.path for file in manifest.current.values()}
        known |= {file.path for file in manifest.events.values()}
        known |= {window.removed_ids.path for window in manifest.windows if window.removed_ids}
        known |= {manifest.source_items.path} if manifest.source_items else set()
        for table in (*TABLES, "removed", "source_items"):
            for file in (self.folder / table).glob("*"):
                if str(file.relative_to(self.folder)) not in known:
                    file.unlink(missing_ok=True)
        windows = {window.window for window in manifest.windows}
        for folder in self.quarantine.glob("*"):
            if folder.name not in windows and folder.name != REPLAYS:
                shutil.rmtree(folder, ignore_errors=True)


def _columns(table: str) -> str:
    return ", ".join(identifier(name) for name in TABLES[table].names)


def _kept(file: Path, rejected: int) -> str:
    """Return the rows of an ingested file that are in no row of `rejected`."""
    if not rejected:
        return f"read_parquet({quoted(file)})"
    return (
        f"(SELECT * FROM read_parquet({quoted(file)}, file_row_number = true) AS given "
        "ANTI JOIN rejected ON row_id = file_row_number)"
    )


def _chunks(daily: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Yield runs of days that hold few enough rows to be sorted at once, at least one day each."""
    days: list[str] = []
    held = 0
    for day, rows in daily:
        if days and held + rows > _CHUNK_ROWS:
            yield days
            days, held = [], 0
        days.append(day)
        held += rows
    if days:
        yield days


def _arrived(first: str, last: str) -> str:
    """Return the condition that an event arrived between the start of a UTC day and the end of another."""
    end = datetime.fromisoformat(last) + timedelta(days=1)
    return f"created_timestamp >= TIMESTAMPTZ '{first} 00:00:00+00' AND created_timestamp < TIMESTAMPTZ '{end}+00'"
