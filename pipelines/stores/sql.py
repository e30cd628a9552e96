"""DuckDB as every table of ours is read and written: UTC, bounded memory, no network, no progress bars."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

DEFAULT_MEMORY_MIB = 1_024


def open_duckdb(*, memory_limit_mib: int = DEFAULT_MEMORY_MIB, spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB.

    Args:
        memory_limit_mib: Memory for its buffers, in MiB.
        spill: Folder for what does not fit; without it a query that needs more memory fails.
    """
    connection = duckdb.connect(
        config={
            "memory_limit": f"{memory_limit_mib}MiB",
            "temp_directory": str(spill) if spill else "",
            "autoinstall_known_extensions": "false",
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


def quoted(text: str | Path) -> str:
    """Return a SQL text literal."""
    return "'" + str(text).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a SQL name that may hold any character."""
    return '"' + name.replace('"', '""') + '"'


def quoted_list(texts: Iterable[str | Path]) -> str:
    """Return a SQL list of text literals."""
    return "[" + ", ".join(quoted(text) for text in texts) + "]"


def sql_type(type_: pa.DataType) -> str:
    """Return the DuckDB name of a column type of our tables and features."""
    if pa.types.is_timestamp(type_):
        return "TIMESTAMPTZ"
    if pa.types.is_map(type_):
        return "MAP(VARCHAR, VARCHAR)"
    if pa.types.is_list(type_):
        return f"{sql_type(type_.value_type)}[]"
    return {
        pa.string(): "VARCHAR",
        pa.float64(): "DOUBLE",
        pa.float32(): "FLOAT",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.bool_(): "BOOLEAN",
    }[type_]


def empty_select(schema: pa.Schema) -> str:
    """Return a query with the columns of `schema` and no rows."""
    columns = ", ".join(f"CAST(NULL AS {sql_type(field.type)}) AS {identifier(field.name)}" for field in schema)
    return f"SELECT {columns} WHERE false"


def write_parquet(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> int:
    """Write the rows of `query` to a Parquet file and return their number."""
    return int(scalar(connection, f"COPY ({query}) TO {quoted(path)} (FORMAT parquet, COMPRESSION zstd)"))


def scalar(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """Return the first value of the first row of a query; None where there is no row.

    All rows are fetched: DuckDB refuses other work on a connection whose last result is not finished.
    """
    rows = connection.execute(query).fetchall()
    return rows[0][0] if rows else None
