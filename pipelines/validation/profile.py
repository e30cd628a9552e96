"""What the accepted rows of a window look like, in a few kilobytes that can be added up over windows.

Numbers are counted in buckets of a fixed relative width (a factor of 2 ** 0.25, about 19 %), so that two profiles
always fit together; a comparison makes its own, coarser bins of them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import duckdb

from pipelines.schemas import EVENT_LOG, TABLES

_NUMBERS = {"items": ("price",), "events": ("value", "position", "propensity"), "judgements": ("grade",)}
_VALUES = {"items": ("category", "brand", "currency"), "events": ("event_type", "item_id")}
_TOP = 40
"""Values kept of a column of texts, the most frequent ones."""
_KEY_CHARACTERS = 48
_DAYS = 400
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Profile:
    """Counts of one group of rows: a table, or the events that came through the service."""

    rows: int = 0
    nulls: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Column -> bucket -> rows."""
    values: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Column -> frequent value -> rows."""
    days: Mapping[str, int] = field(default_factory=dict)
    """UTC day on which it happened -> events, the newest days."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "rows": self.rows,
            "nulls": dict(self.nulls),
            "numbers": {name: {str(key): n for key, n in counts.items()} for name, counts in self.numbers.items()},
            "values": {name: dict(counts) for name, counts in self.values.items()},
            "days": dict(self.days),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Profile":
        """Return the profile that `to_json` gave."""
        numbers = {name: {int(key): n for key, n in counts.items()} for name, counts in values["numbers"].items()}
        return cls(values["rows"], values["nulls"], numbers, values["values"], values["days"])


def groups_of(table: str) -> dict[str, str]:
    """Return the groups of a table's rows that are profiled apart: name -> SQL condition."""
    if table != "events":
        return {table: "true"}
    return {"events": f"source IS DISTINCT FROM '{EVENT_LOG}'", EVENT_LOG: f"source = '{EVENT_LOG}'"}


def measure(connection: duckdb.DuckDBPyConnection, table: str, relation: str) -> dict[str, Profile]:
    """Count the rows of a relation with the table's columns and `source`; groups without rows are left out."""
    found = {}
    for group, condition in groups_of(table).items():
        rows = f"(SELECT * FROM {relation} WHERE {condition})"
        profile = _profile(connection, table, rows)
        if profile.rows:
            found[group] = profile
    return found


def add(profiles: Iterable[Profile]) -> Profile:
    """Return the profile of all rows together."""
    profiles = list(profiles)
    return Profile(
        rows=sum(profile.rows for profile in profiles),
        nulls=_sum(profile.nulls for profile in profiles),
        numbers=_sum_columns(profile.numbers for profile in profiles),
        values=_sum_columns(profile.values for profile in profiles),
        days=_sum(profile.days for profile in profiles),
    )


def _profile(connection: duckdb.DuckDBPyConnection, table: str, rows: str) -> Profile:
    columns = [column.name for column in TABLES[table] if column.nullable]
    counts = ", ".join(["count(*)", *(f"count(*) - count({name})" for name in columns)])
    ((total, *nulls),) = connection.execute(f"SELECT {counts} FROM {rows}").fetchall()
    if not total:
        return Profile()
    return Profile(
        rows=total,
        nulls=dict(zip(columns, nulls, strict=True)),
        numbers={name: _buckets(connection, name, rows) for name in _NUMBERS.get(table, ())},
        values={name: _frequent(connection, name, rows) for name in _VALUES.get(table, ())},
        days=_days(connection, rows) if table == "events" else {},
    )


def _buckets(connection: duckdb.DuckDBPyConnection, column: str, rows: str) -> dict[int, int]:
    """Count a column's numbers in buckets that are ordered as the numbers are: 0 for zero, below it for negative."""
    # Width 2 ** 0.25; 1,100 keeps the bucket of the smallest believable number above 0.
    bucket = f"sign({column}) * (1100 + floor(4 * log2(greatest(abs({column}), 1e-60))))"
    return dict(
        connection.execute(
            f"SELECT CAST(CASE WHEN {column} = 0 THEN 0 ELSE {bucket} END AS INTEGER) AS bucket, count(*) "
            f"FROM {rows} WHERE {column} IS NOT NULL GROUP BY bucket ORDER BY bucket"
        ).fetchall()
    )


def _frequent(connection: duckdb.DuckDBPyConnection, column: str, rows: str) -> dict[str, int]:
    found = connection.execute(
        f"SELECT {column}, count(*) AS n FROM {rows} WHERE {column} IS NOT NULL "
        f"GROUP BY {column} ORDER BY n DESC, {column} LIMIT {_TOP}"
    ).fetchall()
    return {_key(value): count for value, count in found}


def _days(connection: duckdb.DuckDBPyConnection, rows: str) -> dict[str, int]:
    found = connection.execute(
        f"SELECT epoch_us(event_timestamp) // {_DAY_US} AS day, count(*) FROM {rows} "
        f"GROUP BY day ORDER BY day DESC LIMIT {_DAYS}"
    ).fetchall()
    return {(date(1970, 1, 1) + timedelta(days=day)).isoformat(): count for day, count in found[::-1]}


def _key(value: str) -> str:
    """Return the value, or its beginning and a hash where it is long."""
    if len(value) <= _KEY_CHARACTERS:
        return value
    return f"{value[: _KEY_CHARACTERS - 9]}…{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def _sum(counts: Iterable[Mapping[Any, int]]) -> dict[Any, int]:
    total: dict[Any, int] = {}
    for one in counts:
        for key, count in one.items():
            total[key] = total.get(key, 0) + count
    return total


def _sum_columns(columns: Iterable[Mapping[str, Mapping[Any, int]]]) -> dict[str, dict[Any, int]]:
    given = list(columns)
    names = dict.fromkeys(name for one in given for name in one)
    return {name: _sum(one.get(name, {}) for one in given) for name in names}
