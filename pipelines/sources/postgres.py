"""A Postgres table or query as a relation of DuckDB: streamed in batches, never on disk, in one snapshot.

DuckDB asks for the rows once a query of ours, so every scan opens its own read-only transaction on the snapshot that
the first one exported. Nothing is kept in between: memory holds a batch, and raw user ids touch no file.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import duckdb
import pyarrow as pa

from pipelines.errors import ConfigError, StoreError
from pipelines.sources.files import FILE, ROW, Relation, described_columns
from pipelines.sources.mapping import PostgresRelation
from pipelines.stores.sql import identifier, quoted

_BEGIN = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_MOMENTS = {"timestamptz", "timestamp", "date"}
_KEPT = {"bool", "int2", "int4", "int8", "float4", "float8", "text", "varchar", "bpchar"} | _MOMENTS
"""Types that arrive as they are; all others (numeric, uuid, enum, json, arrays …) as Postgres writes them."""


class PostgresRows:
    """The rows of a query as an Arrow stream that can be read any number of times."""

    def __init__(self, address: str, where: str, query: str) -> None:
        """Open a snapshot and look at the query's columns; no row is read.

        Args:
            where: What a sentence about a failure begins with.
        """
        self._address, self._where = address, where
        self._holder = self._connect()
        self._cursor = self._holder.cursor()
        self._execute(self._cursor, _BEGIN)
        self._execute(self._cursor, "SELECT pg_export_snapshot()")
        self._snapshot: str = self._cursor.fetchone()[0]
        given = f"(\n{query.strip().rstrip(';')}\n) AS given"
        found = self._schema(f"SELECT * FROM {given}")
        self.types = {field.name: (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode() for field in found}
        columns = ", ".join(
            _name(name) if type_ in _KEPT else f"{_name(name)}::text AS {_name(name)}"
            for name, type_ in self.types.items()
        )
        self._select = f"SELECT {columns} FROM {given}"
        self.schema = self._schema(self._select)

    def restrict(self, condition: str) -> None:
        """Read only the rows that meet a condition of Postgres."""
        self._select += f" WHERE {condition}"

    def close(self) -> None:
        """Let the snapshot go."""
        self._cursor.close()
        self._holder.close()

    def __arrow_c_schema__(self) -> Any:
        """Return the schema as Arrow's C interface has it."""
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Run the query and return its rows as Arrow's C interface has them."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def __del__(self) -> None:
        """Close what nobody can read any more."""
        if hasattr(self, "_cursor"):
            self.close()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with self._connect() as connection, connection.cursor() as cursor:
            self._execute(cursor, _BEGIN)
            self._execute(cursor, f"SET TRANSACTION SNAPSHOT {quoted(self._snapshot)}")
            self._execute(cursor, "SET LOCAL TIME ZONE 'UTC'")
            self._execute(cursor, self._select)
            for batch in cursor.fetch_record_batch():
                yield batch.cast(self.schema)

    def _schema(self, query: str) -> pa.Schema:
        self._execute(self._cursor, f"{query} LIMIT 0")
        return self._cursor.fetch_record_batch().schema

    def _connect(self) -> Any:
        from adbc_driver_postgresql import dbapi

        try:
            return dbapi.connect(self._address)
        except dbapi.Error as error:
            raise StoreError(
                f"{self._where}: the database does not answer: {self._told(error)} "
                "Check the address and whether the server can be reached, then run this again."
            ) from None

    def _execute(self, cursor: Any, query: str) -> None:
        from adbc_driver_postgresql import dbapi

        try:
            cursor.execute(query)
        except dbapi.Error as error:
            raise ConfigError(f"{self._where} cannot be read: {self._told(error)}") from None

    def _told(self, error: Exception) -> str:
        """Return what the server says, without the query it repeats and without the password."""
        text = " ".join(str(error).split("\nQuery was:")[0].split()).removeprefix("IO: [libpq] ")
        for secret in (self._address, *_passwords(self._address)):
            text = text.replace(secret, "***")
        return text if text.endswith(".") else f"{text}."


def postgres_relation(
    connection: duckdb.DuckDBPyConnection,
    where: str,
    table: str,
    given: PostgresRelation,
    *,
    arrival: str | None,
    since: datetime | None,
) -> Relation:
    """Register the rows with DuckDB and return their relation.

    Args:
        where: Names the key of the mapping file, for errors.
        arrival: Column of Postgres that says when a row arrived; only newer ones are asked for.

    Raises:
        ConfigError: the address is not set, or the table or query cannot be read.
        StoreError: the database does not answer.
    """
    address = _address(where, given.address_from)
    rows = PostgresRows(address, where, given.query or f"SELECT * FROM {given.table}")
    if since is not None and arrival is not None and rows.types.get(arrival) in _MOMENTS:
        moment = since.astimezone(UTC).replace(tzinfo=None).isoformat()
        kind = "TIMESTAMP" if rows.types[arrival] != "timestamptz" else "TIMESTAMPTZ"
        zone = "" if kind == "TIMESTAMP" else "+00"
        rows.restrict(f"{_name(arrival)} IS NULL OR {_name(arrival)} > {kind} '{moment}{zone}'")
    name = f"headrace_postgres_{table}"
    connection.register(name, rows)
    described = f"postgres {given.table or 'query'}"
    query = f"SELECT *, row_number() OVER () AS {ROW}, {quoted(described)} AS {FILE} FROM {name}"
    return Relation(query, described_columns(connection, query), described)


def _address(where: str, variable: str) -> str:
    address = os.environ.get(variable, "")
    if not address:
        raise ConfigError(
            f"{where}.address_from: the environment variable {variable} is not set: give it the database's address, "
            "such as postgresql://reader@db.shop/shop."
        )
    if urlsplit(address).scheme not in ("postgresql", "postgres"):
        raise ConfigError(
            f"{where}.address_from: {variable} does not hold an address that begins with postgresql://: correct it."
        )
    return address


def _passwords(address: str) -> list[str]:
    """Return the password as it is written in the address and as it is meant."""
    written = urlsplit(address).password or ""
    return [text for text in (written, unquote(written)) if text]


def _name(name: str) -> str:
    return identifier(name)
