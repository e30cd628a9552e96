"""Behavior preprocessing: types in our words, missing times filled, duplicates and adjacent repeats removed.

Everything is SQL over one Parquet file. What needs to look at other rows works on narrow columns in passes, so that
memory does not grow with the window; only ids and moments that occur twice are looked at exactly.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb

from pipelines.config import PreparationConfig
from pipelines.schemas import EVENT_TYPES, EVENTS
from pipelines.sources.base import timestamp
from pipelines.stores.sql import identifier, quoted, scalar

NORMALIZED = "events: event type normalized"
TIME_FILLED = "events: missing event_timestamp filled with the arrival"
ARRIVAL_FILLED = "events: missing created_timestamp filled with the event's time"
DUPLICATE = "events: exact duplicate"
_PASS_ROWS = 4_000_000
"""Rows that are grouped at once: about 200 MiB in DuckDB."""
_REMOVED = "headrace_removed"
_DUPLICATE_CONTENT = [
    *(name for name in EVENTS.names if name != "created_timestamp"),
    "unreadable",
    "rejected_because",
]
"""Two rows that agree in these are one event that was told twice."""


@dataclass(frozen=True)
class PreparedEvents:
    """A window's events after the rules; nothing is copied yet."""

    query: str
    """Gives the remaining rows with the file's columns, in the file's order; runs on the connection that was given."""
    rows: int
    """Rows that `query` gives."""
    changed: dict[str, int] = field(default_factory=dict)
    """Rows that were mended, by rule."""
    removed: dict[str, int] = field(default_factory=dict)
    """Rows that were removed, by rule."""

    @property
    def unchanged(self) -> bool:
        """Whether the file already is the result."""
        return not self.changed and not self.removed


def repeat_rule(gap_s: float) -> str:
    """Return the name of the rule that merges adjacent repeats."""
    return f"events: repeat within {gap_s:g} s"


def prepare_events(
    connection: duckdb.DuckDBPyConnection,
    file: Path,
    config: PreparationConfig,
    *,
    since: datetime | None,
    until: datetime,
    known: str | None,
) -> PreparedEvents:
    """Apply the rules to the events of a window.

    Args:
        file: Parquet with the contract's columns and the origin columns; every row has its `event_id`.
        since: With `until` the window `(since, until]`: an arrival that is filled in lies within it.
        known: Relation with the events that were accepted lately, for repeats from one window to the next.
    """
    given = f"read_parquet({quoted(file)}, file_row_number = true)"
    columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {given}").fetchall()]
    types, normalized = _event_types(connection, given, config)
    times, filled = _times(connection, given, config, since=since, until=until)
    replaced = times | ({"event_type": types} if normalized else {})
    mended = given
    if replaced:
        parts = ", ".join(f"{expression} AS {name}" for name, expression in replaced.items())
        mended = f"(SELECT * REPLACE ({parts}) FROM {given})"
    changed = filled | ({NORMALIZED: normalized} if normalized else {})
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {_REMOVED} (position BIGINT)")
    rows = int(scalar(connection, f"SELECT count(*) FROM {given}"))
    removed = {}
    if config.remove_duplicates:
        removed[DUPLICATE] = _remove_duplicates(connection, mended, columns, rows)
    if config.repeat_gap_s and config.repeat_types:
        removed[repeat_rule(config.repeat_gap_s)] = _remove_repeats(connection, mended, config, known)
    removed = {rule: count for rule, count in removed.items() if count}
    kept = f" WHERE file_row_number NOT IN (SELECT position FROM {_REMOVED})" if removed else ""
    return PreparedEvents(
        query=f"SELECT * EXCLUDE (file_row_number) FROM {mended}{kept}",
        rows=rows - sum(removed.values()),
        changed=changed,
        removed=removed,
    )


def folded(expression: str) -> str:
    """Return SQL for a word without regard to case, outer blanks, and blanks or hyphens between its parts."""
    return f"regexp_replace(lower(trim({expression}, ' \t\r\n')), '[\\s-]+', '_', 'g')"


def our_words(config: PreparationConfig) -> dict[str, str]:
    """Return our event type for every folded word that is known."""
    return {name: name for name in EVENT_TYPES} | config.event_types


def fold_word(word: str) -> str:
    """Return what `folded` gives in SQL."""
    return re.sub(r"[\s-]+", "_", word.strip(" \t\r\n").lower())


def _event_types(connection: duckdb.DuckDBPyConnection, given: str, config: PreparationConfig) -> tuple[str, int]:
    """Return the expression of the event type in our words, and in how many rows it differs from what was given."""
    ours = our_words(config)
    words = ", ".join(quoted(word) for word in ours)
    right = ", ".join(quoted(name) for name in EVENT_TYPES)
    spellings = connection.execute(
        f"SELECT event_type, count(*) FROM {given} WHERE event_type NOT IN ({right}) "
        f"AND {folded('event_type')} IN ({words}) GROUP BY event_type"
    ).fetchall()
    cases = " ".join(f"WHEN {quoted(given_)} THEN {quoted(ours[fold_word(given_)])}" for given_, _ in spellings)
    return f"CASE event_type {cases} ELSE event_type END", sum(count for _, count in spellings)


def _times(
    connection: duckdb.DuckDBPyConnection,
    given: str,
    config: PreparationConfig,
    *,
    since: datetime | None,
    until: datetime,
) -> tuple[dict[str, str], dict[str, int]]:
    """Return the expressions of the columns of time that have to be filled, and in how many rows.

    A time that is there but cannot be read is not missing: validation sets its row aside.
    """
    lacks = {
        name: f"({name} IS NULL AND coalesce(NOT contains(unreadable, {quoted(name)}), true))"
        for name in ("event_timestamp", "created_timestamp")
    }
    no_time = f"({lacks['event_timestamp']} AND created_timestamp IS NOT NULL)"
    no_arrival = f"({lacks['created_timestamp']} AND event_timestamp IS NOT NULL)"
    counted = connection.execute(
        f"SELECT count(*) FILTER ({no_time}), count(*) FILTER ({no_arrival}) FROM {given}"
    ).fetchall()[0]
    expressions, filled = {}, {}
    if counted[0] and config.missing_event_timestamp == "arrival":
        expressions["event_timestamp"] = f"CASE WHEN {no_time} THEN created_timestamp ELSE event_timestamp END"
        filled[TIME_FILLED] = counted[0]
    if counted[1]:
        # What is seen for the first time in this window did not arrive before it.
        arrival = "event_timestamp"
        if since is not None:
            arrival = f"CASE WHEN event_timestamp <= {timestamp(since)} THEN {timestamp(until)} ELSE {arrival} END"
        expressions["created_timestamp"] = f"CASE WHEN {no_arrival} THEN {arrival} ELSE created_timestamp END"
        filled[ARRIVAL_FILLED] = counted[1]
    return expressions, filled


def _remove_duplicates(connection: duckdb.DuckDBPyConnection, mended: str, columns: list[str], rows: int) -> int:
    """Note the rows that repeat an earlier one in everything but the arrival; return how many.

    Two steps a pass: ids that occur twice, found by a hash of 8 bytes, and then their whole rows.
    """
    content = ", ".join(f"{identifier(name)} := {identifier(name)}" for name in _DUPLICATE_CONTENT if name in columns)
    before = int(scalar(connection, f"SELECT count(*) FROM {_REMOVED}"))
    for part in _passes("event_id", rows):
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE headrace_twice AS SELECT hash(event_id) AS id FROM {mended} "
            f"WHERE event_id IS NOT NULL AND {part} GROUP BY id HAVING count(*) > 1"
        )
        told = (
            f"SELECT file_row_number, created_timestamp, md5_number(to_json(struct_pack({content}))) AS told "
            f"FROM {mended} WHERE {part} AND hash(event_id) IN (SELECT id FROM headrace_twice)"
        )
        connection.execute(
            f"INSERT INTO {_REMOVED} SELECT file_row_number FROM ({told}) "
            "QUALIFY row_number() OVER (PARTITION BY told ORDER BY created_timestamp NULLS LAST, file_row_number) > 1"
        )
    connection.execute("DROP TABLE IF EXISTS headrace_twice")
    return int(scalar(connection, f"SELECT count(*) FROM {_REMOVED}")) - before


def _remove_repeats(
    connection: duckdb.DuckDBPyConnection, mended: str, config: PreparationConfig, known: str | None
) -> int:
    """Note the rows that follow one of the same user, item and type within the gap; return how many.

    A row that an event accepted earlier follows just as closely is the same event, told late: it goes as well.
    """
    gap = f"INTERVAL '{config.repeat_gap_s} seconds'"
    kinds = ", ".join(quoted(kind) for kind in config.repeat_types)
    moment = "hash(user_id, item_id, event_type)"
    wanted = f"event_type IN ({kinds}) AND user_id IS NOT NULL AND item_id IS NOT NULL AND event_timestamp IS NOT NULL"
    new = f"FROM {mended} WHERE {wanted}"
    rows, first, last = connection.execute(
        f"SELECT count(*), min(event_timestamp), max(event_timestamp) {new}"
    ).fetchall()[0]
    before = int(scalar(connection, f"SELECT count(*) FROM {_REMOVED}"))
    for part in _passes("user_id", rows):
        told = (
            f"SELECT {moment} AS moment, event_timestamp AS seen_at, file_row_number AS position {new} AND {part} "
            f"AND file_row_number NOT IN (SELECT position FROM {_REMOVED})"
        )
        if known is not None:
            told += (
                f" UNION ALL SELECT {moment}, event_timestamp, NULL FROM {known} WHERE {wanted} AND {part} "
                f"AND event_timestamp BETWEEN {timestamp(first)} - {gap} AND {timestamp(last)} + {gap}"
            )
        neighbors = (
            "SELECT position, seen_at, lag(seen_at) OVER told AS earlier, lead(seen_at) OVER told AS later, "
            "lead(position IS NULL) OVER told AS later_known "
            f"FROM ({told}) WINDOW told AS (PARTITION BY moment ORDER BY seen_at, position NULLS FIRST)"
        )
        connection.execute(
            f"INSERT INTO {_REMOVED} SELECT position FROM ({neighbors}) WHERE position IS NOT NULL "
            f"AND (seen_at - earlier <= {gap} OR (later_known AND later - seen_at <= {gap}))"
        )
    return int(scalar(connection, f"SELECT count(*) FROM {_REMOVED}")) - before


def _passes(column: str, rows: int) -> list[str]:
    """Return conditions that split the rows by a column, so that no pass has many more than `_PASS_ROWS`."""
    count = -(-rows // _PASS_ROWS)
    return ["true"] if count == 1 else [f"hash({column}) % {count} = {part}" for part in range(count)]
