"""What a source is: it describes its new rows as queries in contract form, and nothing is read before they run.

A source never turns rows into Python objects and never writes: `ingest_tables` runs its queries, replaces
raw user ids by pseudonyms and writes the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import duckdb

from pipelines.schemas import TABLES
from pipelines.stores.sql import identifier, quoted, sql_type

ORIGIN_COLUMNS = {
    "row_number": "BIGINT",
    "source": "VARCHAR",
    "unreadable": "VARCHAR",
    "rejected_because": "VARCHAR",
}
"""Columns beside the contract's: where the row stood (from 1), who gave it, which of its values could not be read, and
why the source itself refuses it (null where it does not)."""


@dataclass(frozen=True)
class SourceTables:
    """The rows of one window, not read yet."""

    queries: Mapping[str, str]
    """Table name -> query with the contract's columns and `ORIGIN_COLUMNS`; `user_id` is still raw."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What the source wants to find again next time (JSON values)."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that are in the data but are not rows of our contract, by reason."""
    described: Mapping[str, str] = field(default_factory=dict)
    """Table -> what it is read from, such as the names of its files, for errors."""
    arrival_known: Mapping[str, bool] = field(default_factory=dict)
    """Tables (default true) whose rows say when they arrived. Of the others every row is given each time."""


class Source(Protocol):
    """Where tables come from."""

    name: str

    def read(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        since: datetime | None,
        until: datetime,
        state: Mapping[str, Any],
    ) -> SourceTables:
        """Describe the rows that arrived in `(since, until]`; `since` is None on the first run.

        Rows that are stamped earlier may be among them: those that are known are left out later.

        Raises:
            ConfigError: the source is not set up right.
            DataError: its data cannot be read.
        """
        ...


def contract_query(table: str, expressions: Mapping[str, str], relation: str) -> str:
    """Return a query over `relation` with all columns of a contract table, in order.

    Args:
        expressions: Column -> SQL expression. A column without one is null.
    """
    types = {column.name: sql_type(column.type) for column in TABLES[table]} | ORIGIN_COLUMNS
    columns = [
        f"CAST({expressions.get(name, 'NULL')} AS {type_}) AS {identifier(name)}" for name, type_ in types.items()
    ]
    return f"SELECT {', '.join(columns)} FROM {relation}"


def timestamp(moment: datetime) -> str:
    """Return a SQL timestamp literal."""
    return f"TIMESTAMPTZ {quoted(moment.isoformat())}"


def arrived(column: str, since: datetime | None, until: datetime) -> str:
    """Return the SQL condition that `column` lies in `(since, until]`."""
    condition = f"{column} <= {timestamp(until)}"
    return condition if since is None else f"{condition} AND {column} > {timestamp(since)}"
