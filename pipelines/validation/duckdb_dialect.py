"""DuckDB for SQLAlchemy, as much of it as Great Expectations needs to ask one lent connection its questions.

DuckDB speaks Postgres' SQL, so this is SQLAlchemy's Postgres dialect with DuckDB's answers to "which columns" and
"does it match", and no transactions. A connection is lent for the length of a block: nothing here opens a database.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
from sqlalchemy import types
from sqlalchemy.dialects import postgresql, registry
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool, Pool

URL_OF_LENT = "headrace+duckdb://lent"
"""What SQLAlchemy connects to: the connection that is lent at that moment."""

_lent: dict[int, duckdb.DuckDBPyConnection] = {}
_TYPES: dict[str, types.TypeEngine[Any]] = {
    "BIGINT": types.BIGINT(),
    "BOOLEAN": types.BOOLEAN(),
    "DOUBLE": postgresql.DOUBLE_PRECISION(),
    "FLOAT": types.REAL(),
    "INTEGER": types.INTEGER(),
    "MAP(VARCHAR, VARCHAR)": postgresql.HSTORE(),
    "TIMESTAMP WITH TIME ZONE": postgresql.TIMESTAMP(timezone=True),
    "VARCHAR": types.VARCHAR(),
}
"""DuckDB's name of a type -> what Postgres calls it; a map of texts is nearest to its hstore."""


@contextmanager
def lending(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Lend the connection to this thread's SQLAlchemy engines of `URL_OF_LENT` while the block runs."""
    registry.register("headrace.duckdb", __name__, "DuckDBDialect")
    thread = threading.get_ident()
    _lent[thread] = connection
    try:
        yield
    finally:
        del _lent[thread]


class _Cursor:
    """One question to DuckDB; its answer is fetched whole, because DuckDB holds one open answer a connection."""

    arraysize = 1

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self.description: Sequence[Any] | None = None
        self.rowcount = -1

    def execute(self, statement: str, parameters: Any = None) -> None:
        answer = self._connection.execute(statement, parameters or [])
        self.description = answer.description
        self._rows = answer.fetchall()[::-1]

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop() if self._rows else None

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        return [self._rows.pop() for _ in range(min(size, len(self._rows)))]

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows[::-1], []
        return rows

    def close(self) -> None:
        self._rows = []


class _Connection:
    """The lent connection in DB-API's form. It reads, so that there is nothing to commit, and its owner closes it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class _Driver:
    """The module that SQLAlchemy expects of a driver."""

    paramstyle = "numeric_dollar"
    Error = duckdb.Error
    DatabaseError = duckdb.DatabaseError

    @staticmethod
    def connect() -> _Connection:
        try:
            return _Connection(_lent[threading.get_ident()])
        except KeyError:
            raise RuntimeError("No DuckDB connection is lent to this thread: use `lending(connection)`.") from None


class _Compiler(PGCompiler):
    """Postgres' SQL, but for one operator: DuckDB's `~` asks whether the whole text matches, Postgres' a part of it."""

    def visit_custom_op_binary(self, element: Any, operator: Any, **kw: Any) -> str:
        if operator.opstring not in ("~", "!~"):
            return str(super().visit_custom_op_binary(element, operator, **kw))  # type: ignore[no-untyped-call]
        found = f"regexp_matches({self.process(element.left, **kw)}, {self.process(element.right, **kw)})"
        return found if operator.opstring == "~" else f"NOT {found}"


class DuckDBDialect(PGDialect):
    """Postgres' dialect on a lent DuckDB connection; its name stays `postgresql`, by which others choose their SQL."""

    driver = "duckdb"
    supports_statement_cache = True
    statement_compiler = _Compiler
    default_paramstyle = "numeric_dollar"

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return what stands for the driver's module."""
        return _Driver

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:  # noqa: ARG003 - SQLAlchemy's signature
        """Return the pool that keeps nothing: a connection is lent again each time."""
        return NullPool

    def create_connect_args(self, url: URL) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        """Return the driver's arguments: none."""
        return (), {}

    def initialize(self, connection: Any) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        """Ask nothing of the server about itself: a backslash is a character like any other to DuckDB."""
        self.server_version_info = (16, 0)
        self.default_schema_name = "main"
        self._backslash_escapes = False

    def on_connect(self) -> None:
        """Set nothing up."""

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin nothing: what is lent is only read."""

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> bool:
        """Tell whether there is such a table or view."""
        return bool(self.get_columns(connection, table_name, schema))

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> list[Any]:  # noqa: ARG002
        """Return the columns of a table or view with their types."""
        found = connection.exec_driver_sql(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = $1 ORDER BY column_index",
            (table_name,),
        )
        return [
            {"name": name, "type": _TYPES.get(kind, types.NullType()), "nullable": True, "default": None}
            for name, kind in found
        ]

    def get_pk_constraint(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> Any:  # noqa: ARG002
        """Return no primary key: views and ingested files have none."""
        return {"constrained_columns": [], "name": None}
