"""Rows that were set aside: what they are, and how mended ones get back in.

quarantine/<window>/<table>.parquet       rows set aside, one for each rule that a row breaks, with rule and reason
quarantine/replay/<id>/<table>.parquet    mended rows in contract form, users as pseudonyms; the next window reads them

A row of quarantine is known by its window, its source and its row number there. A replay names the rows it stands for,
and an accepted window the replays that it held: nothing has to be marked.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipelines.errors import DataError
from pipelines.pseudonyms import Pseudonymizer
from pipelines.schemas import TABLES
from pipelines.stores.files import replacing_file, replacing_folder
from pipelines.stores.sql import identifier, open_duckdb, quoted, quoted_list, scalar, sql_type, write_parquet

REPLAYS = "replay"
WINDOW = "quarantine_window"
"""Column that names the window in which a row was set aside."""
KEY = (WINDOW, "source", "row_number")
_ID_DIGITS = 16


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


@dataclass(frozen=True)
class Wanted:
    """Which rows of quarantine a person asks for; None means all."""

    window: str | None = None
    table: str | None = None
    reason: str | None = None
    """Part of the reason, upper and lower case alike."""


@dataclass(frozen=True)
class ReasonCount:
    """Rows of one window and table that were set aside for one reason."""

    window: str
    table: str
    rule: str
    reason: str
    rows: int
    open: int
    """Rows that nobody has replayed yet."""


@dataclass(frozen=True)
class Replayed:
    """What one replay wrote."""

    id: str | None
    """None where there was nothing to write."""
    table: str
    rows: int
    skipped: int = 0
    """Rows left where they are, because only mending helps."""
    before: bool = False
    """Whether the same rows were replayed before."""


class Quarantine:
    """The rows that accepted windows set aside.

    Args:
        folder: `quarantine/`.
        windows: Ids of the accepted windows, oldest first; a folder of any other is what a killed step left.
    """

    def __init__(self, folder: Path, windows: Sequence[str]) -> None:
        self._folder = folder
        self._windows = windows

    def counts(self, wanted: Wanted) -> list[ReasonCount]:
        """Count rows by window, table and reason, newest window first and the most frequent reason first."""
        found: list[ReasonCount] = []
        with open_duckdb() as connection:
            for table in self._tables(wanted):
                if not self._open_table(connection, table, wanted):
                    continue
                rows = connection.execute(
                    f"SELECT {WINDOW}, rule, reason, count(*), count(*) FILTER (NOT replayed) FROM aside GROUP BY ALL"
                ).fetchall()
                found += [ReasonCount(row[0], table, *row[1:]) for row in rows]
        return sorted(found, key=lambda one: (one.window, one.rows, one.table, one.reason), reverse=True)

    def examples(self, count: ReasonCount, limit: int) -> list[dict[str, Any]]:
        """Return some rows of this reason, the open ones first; columns without a value are left out."""
        with open_duckdb() as connection:
            self._open_table(connection, count.table, Wanted(count.window, count.table))
            found = connection.execute(
                "SELECT * EXCLUDE (rule, reason, replayed) FROM aside WHERE rule = ? AND reason = ? "
                f"ORDER BY replayed, {', '.join(KEY)} LIMIT ?",
                [count.rule, count.reason, limit],
            )
            names = [column[0] for column in found.description]
            return [
                {name: value for name, value in zip(names, row, strict=True) if value is not None}
                for row in found.fetchall()
            ]

    def export(self, file: Path, wanted: Wanted) -> int:
        """Write open rows to a CSV or Parquet file, each once with all its reasons; return their number.

        Raises:
            DataError: the file's name ends with neither, no table is named, or there is no such row.
        """
        table = self._one_table(wanted)
        form = _format(file)
        with open_duckdb() as connection:
            self._require_rows(connection, table, wanted)
            columns = ", ".join(
                f"to_json({identifier(column.name)}) AS {identifier(column.name)}"
                if form == "csv" and str(column.type).startswith("map")
                else identifier(column.name)
                for column in TABLES[table]
            )
            query = (
                f"SELECT {', '.join(KEY)}, string_agg(reason, '; ' ORDER BY rule) AS reasons, "
                f"any_value(unreadable) AS unreadable, {columns} FROM aside WHERE NOT replayed GROUP BY ALL "
                f"ORDER BY {', '.join(KEY)}"
            )
            with replacing_file(file) as temporary:
                if form == "parquet":
                    return write_parquet(connection, query, temporary)
                return int(scalar(connection, f"COPY ({query}) TO {quoted(temporary)} (FORMAT csv, HEADER)"))

    def replay(self, wanted: Wanted) -> list[Replayed]:
        """Send open rows as they are to the next window, for example since the missing item has arrived.

        Rows with unreadable values, and rows that the mapping refuses, stay: only mending helps them.
        """
        done = []
        with open_duckdb() as connection:
            for table in self._tables(wanted):
                if not self._open_table(connection, table, wanted):
                    continue
                columns = ", ".join(identifier(name) for name in (*KEY, *TABLES[table].names))
                connection.execute(
                    f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT {columns}, any_value(unreadable) IS NOT NULL "
                    "OR any_value(rejected_because) IS NOT NULL AS hopeless "
                    "FROM aside WHERE NOT replayed GROUP BY ALL"
                )
                skipped = int(scalar(connection, "SELECT count(*) FROM chosen WHERE hopeless"))
                connection.execute("DELETE FROM chosen WHERE hopeless")
                done.append(self._write(connection, table, skipped))
        return done

    def replay_file(self, file: Path, wanted: Wanted, pseudonymizer: Pseudonymizer) -> Replayed:
        """Send the mended rows of a file that `export` wrote to the next window.

        Args:
            wanted: Its `table` says what the rows are; where it is None, the file's columns do.
            pseudonymizer: For user ids that somebody typed in; what has 32 hex digits is a pseudonym already.

        Raises:
            DataError: the file cannot be read, lacks a column, or holds a value that cannot be read.
        """
        with open_duckdb() as connection:
            names = _load(connection, file)
            table = wanted.table or _table_with(names, file)
            _require(names, table, file)
            self._read_mended(connection, table, file)
            self._refuse_strangers(connection, table, file)
            if "user_id" in TABLES[table].names:
                _add_pseudonyms(connection, pseudonymizer)
            return self._write(connection, table, 0)

    def waiting(self, done: Collection[str]) -> int:
        """Return how many replayed rows wait for the next window."""
        files = [file for replay in pending_replays(self._folder, done=done) for file in replay.files.values()]
        with open_duckdb() as connection:
            return sum(int(scalar(connection, f"SELECT count(*) FROM read_parquet({quoted(file)})")) for file in files)

    # Inside

    def _tables(self, wanted: Wanted) -> list[str]:
        return [table for table in TABLES if wanted.table in (None, table)]

    def _one_table(self, wanted: Wanted) -> str:
        if wanted.table:
            return wanted.table
        found = sorted({count.table for count in self.counts(wanted) if count.open})
        if len(found) == 1:
            return found[0]
        raise DataError(
            f"Rows of {len(found)} tables are set aside ({', '.join(found) or 'none'}), and a file holds one table: "
            "name one with --table."
        )

    def _open_table(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Wanted) -> bool:
        """Make the view `aside` of a table's wanted rows, with `replayed`; return whether there is any file."""
        windows = [window for window in self._windows if wanted.window in (None, window)]
        files = [self._folder / window / f"{table}.parquet" for window in windows]
        files = [file for file in files if file.exists()]
        if not files:
            return False
        replays = sorted((self._folder / REPLAYS).glob(f"[!.]*/{table}.parquet"))
        keys = ", ".join(KEY)
        covered = f"SELECT DISTINCT {keys} FROM read_parquet({quoted_list(replays)})" if replays else None
        read = (
            f"SELECT * EXCLUDE (filename), parse_filename(parse_dirpath(filename)) AS {WINDOW} "
            f"FROM read_parquet({quoted_list(files)}, filename = true, union_by_name = true)"
        )
        state = f"SELECT read.*, false AS replayed FROM ({read}) AS read"
        if covered:
            state = (
                f"SELECT read.*, covered.{WINDOW} IS NOT NULL AS replayed FROM ({read}) AS read "
                f"LEFT JOIN ({covered}) AS covered USING ({keys})"
            )
        condition = f"WHERE contains(lower(reason), {quoted(wanted.reason.lower())})" if wanted.reason else ""
        connection.execute(f"CREATE OR REPLACE TEMP VIEW aside AS SELECT * FROM ({state}) {condition}")
        return True

    def _require_rows(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Wanted) -> None:
        found = self._open_table(connection, table, wanted)
        if not found or not scalar(connection, "SELECT count(*) FROM aside WHERE NOT replayed"):
            raise DataError(
                f"No open row of {table} is set aside that fits: `headrace quarantine show` lists what there is."
            )

    def _read_mended(self, connection: duckdb.DuckDBPyConnection, table: str, file: Path) -> None:
        """Make the table `chosen` of the loaded rows in the contract's types.

        Raises:
            DataError: names the first value that cannot be read, or a row that is marked unreadable.
        """
        types = {column.name: sql_type(column.type) for column in TABLES[table]}
        types |= {WINDOW: "VARCHAR", "source": "VARCHAR", "row_number": "BIGINT"}
        for name, type_ in types.items():
            read = _cast(name, type_)
            bad = connection.execute(
                f"SELECT line, CAST({identifier(name)} AS VARCHAR) FROM loaded "
                f"WHERE {identifier(name)} IS NOT NULL AND {read} IS NULL ORDER BY line LIMIT 1"
            ).fetchall()
            if bad:
                raise DataError(
                    f"{file}, row {bad[0][0]}: `{name}` is {bad[0][1]!r} and must be {type_}. Mend it, then run this "
                    "again; nothing was replayed."
                )
        marked = connection.execute(
            "SELECT line, unreadable FROM loaded WHERE unreadable <> '' ORDER BY line LIMIT 1"
        ).fetchall()
        if marked:
            raise DataError(
                f"{file}, row {marked[0][0]}: `unreadable` still names {marked[0][1]!r}. Write the right value there "
                "and empty the cell `unreadable`, or take the row out; nothing was replayed."
            )
        columns = ", ".join(f"{_cast(name, type_)} AS {identifier(name)}" for name, type_ in types.items())
        connection.execute(f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT {columns} FROM loaded")

    def _refuse_strangers(self, connection: duckdb.DuckDBPyConnection, table: str, file: Path) -> None:
        """Refuse rows that were never set aside: this is no way past the source.

        Raises:
            DataError: names the first of them.
        """
        keys = ", ".join(KEY)
        known = f" ANTI JOIN aside USING ({keys})" if self._open_table(connection, table, Wanted(table=table)) else ""
        strangers = connection.execute(
            f"SELECT {WINDOW}, row_number, source FROM chosen{known} ORDER BY {keys}"
        ).fetchall()
        if strangers:
            window, number, source = strangers[0]
            raise DataError(
                f"{file}: {len(strangers):,} rows were never set aside, the first is row {number} of {source} in "
                f"window {window}: leave {keys} as `headrace quarantine export` wrote them; nothing was replayed."
            )

    def _write(self, connection: duckdb.DuckDBPyConnection, table: str, skipped: int) -> Replayed:
        """Write the rows of `chosen` as a replay, whole or not at all."""
        rows = int(scalar(connection, "SELECT count(*) FROM chosen"))
        if not rows:
            return Replayed(None, table, 0, skipped)
        columns = ", ".join(identifier(name) for name in (*TABLES[table].names, "row_number", "source"))
        query = f"SELECT {columns}, CAST(NULL AS VARCHAR) AS unreadable, {WINDOW} FROM chosen ORDER BY {', '.join(KEY)}"
        name = _content_hash(connection, table, query)
        target = self._folder / REPLAYS / name
        if target.exists():
            return Replayed(name, table, rows, skipped, before=True)
        with replacing_folder(target) as folder, replacing_file(folder / f"{table}.parquet") as temporary:
            write_parquet(connection, query, temporary)
        return Replayed(name, table, rows, skipped)


def _format(file: Path) -> str:
    form = file.suffix.lower().removeprefix(".")
    if form not in ("csv", "parquet"):
        raise DataError(f"{file} ends with `{file.suffix}`: give the file a name that ends with .csv or .parquet.")
    return form


def _load(connection: duckdb.DuckDBPyConnection, file: Path) -> list[str]:
    """Make the table `loaded` of a file, with `line` (the first row is 1), and return the names of its columns."""
    form = _format(file)
    if not file.is_file():
        raise DataError(f"{file} is no file: name what `headrace quarantine export` wrote.")
    reader = "read_csv({}, all_varchar = true, header = true)" if form == "csv" else "read_parquet({})"
    try:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE loaded AS SELECT *, row_number() OVER () AS line "
            f"FROM {reader.format(quoted(file))}"
        )
    except duckdb.Error as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())[:300]}") from None
    return [name for (name,) in connection.execute("SELECT column_name FROM (DESCRIBE loaded)").fetchall()]


def _table_with(names: Collection[str], file: Path) -> str:
    """Return the table whose columns these are."""
    for table, schema in TABLES.items():
        if set(schema.names) <= set(names):
            return table
    raise DataError(f"{file} has the columns of no table of ours ({', '.join(names)}): say which with --table.")


def _require(names: Collection[str], table: str, file: Path) -> None:
    missing = [name for name in (*KEY, "unreadable", *TABLES[table].names) if name not in names]
    if missing:
        raise DataError(
            f"{file} has no column {', '.join(f'`{name}`' for name in missing)}: keep all columns of the file that "
            "`headrace quarantine export` wrote."
        )


def _cast(name: str, type_: str) -> str:
    column = identifier(name)
    if type_.startswith("MAP"):
        return f"CASE WHEN json_valid(CAST({column} AS VARCHAR)) THEN TRY_CAST(CAST({column} AS JSON) AS {type_}) END"
    return f"TRY_CAST({column} AS {type_})"


def _add_pseudonyms(connection: duckdb.DuckDBPyConnection, pseudonymizer: Pseudonymizer) -> None:
    """Put pseudonyms in place of the raw user ids of `chosen`."""
    raw = connection.execute(
        "SELECT DISTINCT user_id FROM chosen WHERE user_id <> '' AND NOT regexp_full_match(user_id, '[0-9a-f]{32}')"
    ).fetchall()
    for (user,) in raw:
        connection.execute("UPDATE chosen SET user_id = ? WHERE user_id = ?", [pseudonymizer.pseudonym(user), user])


def _content_hash(connection: duckdb.DuckDBPyConnection, table: str, query: str) -> str:
    digest = hashlib.sha256(table.encode())
    answer = connection.execute(query)
    while rows := answer.fetchmany(10_000):
        digest.update(json.dumps(rows, default=str).encode())
    return digest.hexdigest()[:_ID_DIGITS]
