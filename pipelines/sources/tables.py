"""Your own tables: files or a database, read by DuckDB and brought into contract form by one mapping file.

docs/your-own-data.md explains the mapping file and shows one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from pipelines.errors import ConfigError, DataError, HeadraceError
from pipelines.schemas import TABLES
from pipelines.sources.base import SourceTables, arrived, contract_query, timestamp
from pipelines.sources.files import FILE, ROW, Relation, files_relation, one_line, one_statement
from pipelines.sources.mapping import ARRIVAL, TableMapping, and_others, load_mapping, named, nearest
from pipelines.sources.postgres import postgres_relation
from pipelines.stores.sql import identifier, quoted, scalar, sql_type

MAX_USER_BYTES = 512
"""A longer text is no user id."""
NOT_YET = "arrives after the end of this window"
_FIRST, _LAST = "TIMESTAMPTZ '0001-01-01 00:00:00+00'", "TIMESTAMPTZ '9999-12-31 00:00:00+00'"
_LEFT_OUT = "headrace_left_out"


@dataclass
class TablePlan:
    """How one table becomes contract rows."""

    relation: Relation
    origins: dict[str, str] = field(default_factory=dict)
    """Contract column -> where it comes from, in words; a column that is absent is null."""
    types: dict[str, str] = field(default_factory=dict)
    """Contract column -> DuckDB type of what was found."""
    problems: list[str] = field(default_factory=list)
    """What the mapping gets wrong about the data, a sentence each; the queries are right only where there is none."""
    unused: list[str] = field(default_factory=list)
    """Columns of the data that the mapping does not speak of."""
    query: str = ""
    reasons: str = ""
    """Query that gives for each row why it is left out, or null."""
    left_out: str | None = None
    """Query that gives `reason` and `rows`, where rows can be left out at all."""


class TablesSource:
    """Reads what a mapping file names."""

    name = "tables"

    def __init__(
        self,
        mapping: Path,
        *,
        tables: dict[str, TableMapping] | None = None,
        lookback: timedelta = timedelta(0),
    ) -> None:
        """Read the mapping file; the tables are read later.

        Args:
            lookback: How long before the last window's end a row may be stamped that was not there then.
            tables: What the file says, where it was read before.

        Raises:
            ConfigError: the mapping file does not exist, is not YAML, or names something that does not exist.
        """
        self.mapping_file = mapping
        self.tables = load_mapping(mapping) if tables is None else tables
        self._lookback = lookback

    def read(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        since: datetime | None,
        until: datetime,
        state: Mapping[str, Any],  # noqa: ARG002
    ) -> SourceTables:
        """Describe the mapped tables: what is stamped since then, and a while before.

        A value that does not fit its column's type becomes null and is named in `unreadable`, so that validation
        sets the row aside. Without an arrival column every row is given each time, and what is known is left out later.

        Raises:
            ConfigError: files or columns that the mapping names do not exist.
            DataError: a file cannot be read, or has no rows.
            StoreError: a database does not answer.
        """
        queries: dict[str, str] = {}
        left_out: dict[str, int] = {}
        described: dict[str, str] = {}
        for table in self.tables:
            plan = self.plan(connection, table, since=since, until=until)
            if plan.problems:
                raise ConfigError(plan.problems[0] + and_others(plan.problems))
            queries[table] = plan.query
            described[table] = plan.relation.described
            left_out |= self._count_left_out(connection, table, plan)
        return SourceTables(
            queries=queries,
            left_out=left_out,
            described=described,
            arrival_known={table: ARRIVAL.get(table, "") in mapping.mapped for table, mapping in self.tables.items()},
        )

    def plan(
        self, connection: duckdb.DuckDBPyConnection, table: str, *, since: datetime | None, until: datetime
    ) -> TablePlan:
        """Return how a table is read; what the mapping gets wrong is collected, not raised.

        Raises:
            ConfigError: no file matches, or the database's table or query cannot be read.
            DataError: a file cannot be read, or has no rows.
            StoreError: a database does not answer.
        """
        mapping = self.tables[table]
        read_since = None if since is None else since - self._lookback
        relation = self._relation(connection, table, mapping, since=read_since)
        plan = TablePlan(relation, problems=self._unknown_columns(table, mapping, relation))
        if plan.problems:
            return plan
        fragments = Fragments(connection, relation, f"{self.mapping_file}: `{table}.", plan.problems)
        columns = _Columns(table, mapping, fragments, until=until)
        left_out = fragments.reason("leave_out", mapping.leave_out)
        if plan.problems:
            return plan
        plan.origins, plan.types = columns.origins, columns.types
        plan.unused = _unused(mapping, relation)
        given = f"(SELECT *, {left_out} AS {_LEFT_OUT} FROM ({relation.query}))"
        plan.reasons = f"SELECT {_LEFT_OUT} AS reason FROM {given}"
        plan.query = f"{contract_query(table, columns.expressions, given)} WHERE {_LEFT_OUT} IS NULL"
        column = ARRIVAL.get(table)
        known = column is not None and column in mapping.mapped
        if column is not None:
            condition = arrived(column, read_since if known else None, until)
            plan.query = f"SELECT * FROM ({plan.query}) WHERE {column} IS NULL OR ({condition})"
        if mapping.leave_out or known or table == "events":
            arrival = columns.expressions[column] if column else "CAST(NULL AS TIMESTAMPTZ)"
            old = f" AND (arrival IS NULL OR arrival > {timestamp(since)})" if known and since is not None else ""
            plan.left_out = (
                f"SELECT CASE WHEN arrival > {timestamp(until)} THEN {quoted(NOT_YET)} ELSE reason END AS reason, "
                f"count(*) AS rows FROM (SELECT {_LEFT_OUT} AS reason, {arrival} AS arrival FROM {given}) "
                f"WHERE (reason IS NOT NULL OR arrival > {timestamp(until)}){old} GROUP BY ALL ORDER BY ALL"
            )
        return plan

    def _relation(
        self, connection: duckdb.DuckDBPyConnection, table: str, mapping: TableMapping, *, since: datetime | None
    ) -> Relation:
        if mapping.postgres is not None:
            return postgres_relation(
                connection,
                f"{self.mapping_file}: `{table}.postgres`",
                table,
                mapping.postgres,
                arrival=mapping.columns.get(ARRIVAL.get(table, "")),
                since=since,
            )
        relation = files_relation(connection, self.mapping_file, table, mapping)
        if mapping.query is None and not _scalar(connection, table, f"SELECT true FROM ({relation.query}) LIMIT 1"):
            raise DataError(
                f"The table {table} is empty: the files that `{table}.files` in {self.mapping_file} names "
                f"({relation.described}) have no rows. Fill them, or take the table out of the mapping."
            )
        return relation

    def _unknown_columns(self, table: str, mapping: TableMapping, relation: Relation) -> list[str]:
        wanted = [(f"columns.{name}", column) for name, column in mapping.columns.items()]
        wanted += [("attributes", column) for column in mapping.attributes]
        folded = {name.casefold() for name in relation.columns}
        return [
            f"{self.mapping_file}: `{table}.{where}`: {relation.described} has no column `{column}`"
            f"{nearest(column, relation.columns)} (it has: {named(relation.columns)})."
            for where, column in wanted
            if column.casefold() not in folded
        ]

    def _count_left_out(self, connection: duckdb.DuckDBPyConnection, table: str, plan: TablePlan) -> dict[str, int]:
        if plan.left_out is None:
            return {}
        try:
            rows = connection.execute(plan.left_out).fetchall()
        except duckdb.Error as error:
            raise _unreadable(table, plan.relation.described, error) from None
        return {f"{table}: {reason}": int(count) for reason, count in rows}


class Fragments:
    """Checks the SQL that a mapping file holds, piece by piece, so that a sentence can name the piece."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, relation: Relation, where: str, problems: list[str]
    ) -> None:
        self._connection, self._relation, self._where, self._problems = connection, relation, where, problems
        # Binding against nulls of the same types opens no file.
        nulls = ", ".join(f"CAST(NULL AS {type_}) AS {identifier(name)}" for name, type_ in relation.columns.items())
        self._empty = f"(SELECT {nulls}, CAST(NULL AS BIGINT) AS {ROW}, CAST(NULL AS VARCHAR) AS {FILE})"

    def type_of(self, column: str) -> str:
        """Return the DuckDB type of a column of the relation."""
        return next(type_ for name, type_ in self._relation.columns.items() if name.casefold() == column.casefold())

    def expression(self, key: str, sql: str) -> tuple[str, str]:
        """Return the expression so that a failure in a row gives null, and its type; note a problem if it has one."""
        plain = f"({sql.strip()}\n)"
        try:
            one_statement(self._connection, f"SELECT {plain} FROM given")
            found = self._describe(plain)
        except duckdb.Error as error:
            self._note(key, one_line(error))
            return "NULL", "VARCHAR"
        if len(found) != 1:
            self._note(key, f"it gives {len(found)} values.")
            return "NULL", "VARCHAR"
        try:
            self._describe(f"TRY({plain})")
        except duckdb.Error:  # a subquery, for example, cannot be tried
            return plain, found[0]
        return f"TRY({plain})", found[0]

    def condition(self, key: str, sql: str) -> str:
        """Return the condition so that a failure in a row gives null; note a problem if it has one."""
        condition, type_ = self.expression(key, sql)
        if type_ not in ("BOOLEAN", '"NULL"') and condition != "NULL":
            self._note(key, f"it is no condition but a value of type {type_}.")
        return condition

    def reason(self, part: str, conditions: Mapping[str, str]) -> str:
        """Return SQL for the reason of the first condition that holds."""
        cases = [
            f"WHEN {self.condition(f'{part}.{reason}', sql)} THEN {quoted(reason)}"
            for reason, sql in conditions.items()
        ]
        return f"CASE {' '.join(cases)} END" if cases else "CAST(NULL AS VARCHAR)"

    def _describe(self, expression: str) -> list[str]:
        rows = self._connection.execute(f"DESCRIBE SELECT {expression} FROM {self._empty}").fetchall()
        return [row[1] for row in rows]

    def _note(self, key: str, problem: str) -> None:
        texts = "VARCHAR" in self._relation.columns.values()
        hint = " A column of text has to be cast first: TRY_CAST(price AS DOUBLE) > 0." if texts else ""
        self._problems.append(
            f"{self._where}{key}` cannot be used: {problem} The columns are {named(self._relation.columns)}.{hint}"
        )


class _Columns:
    """The expressions of one table's contract columns and where each comes from."""

    def __init__(self, table: str, mapping: TableMapping, fragments: Fragments, *, until: datetime) -> None:
        self.expressions: dict[str, str] = {}
        self.origins: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self._unreadable: list[tuple[str, str]] = []
        self._refused: list[tuple[str, str]] = []
        types = {column.name: sql_type(column.type) for column in TABLES[table]}
        for name, column in mapping.columns.items():
            self._add(name, types[name], identifier(column), fragments.type_of(column), f"column `{column}`")
        for name, sql in mapping.expressions.items():
            value, type_ = fragments.expression(f"expressions.{name}", sql)
            self._add(name, types[name], value, type_, f"expression `{' '.join(sql.split())}`")
            if value.startswith("TRY("):
                failed = value.replace("TRY(", "TRY(coalesce(CAST(", 1)[:-1] + " AS VARCHAR), '')) IS NULL"
                self._unreadable.append((failed, name))
        for name, constant in mapping.constants.items():
            self._add(name, types[name], quoted(str(constant)), "VARCHAR", f"constant `{constant}`")
        if mapping.attributes:
            self._add_attributes(mapping.attributes)
        for name, (default, reason) in _defaults(table, self.expressions, until).items():
            if name not in self.expressions:
                self.expressions[name], self.origins[name] = default, f"default: {reason}"
        rejected = [(fragments.condition(f"reject.{reason}", sql), reason) for reason, sql in mapping.reject.items()]
        self.expressions["unreadable"] = _joined(self._unreadable, ", ")
        self.expressions["rejected_because"] = _joined(rejected + self._refused, "; ")
        self.expressions |= {"row_number": ROW, "source": FILE}

    def _add(self, name: str, target: str, value: str, type_: str, origin: str) -> None:
        self.origins[name], self.types[name] = origin, type_
        type_ = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}.get(type_, type_)
        if target == "VARCHAR":
            if type_ in ("DOUBLE", "FLOAT") and name.endswith("_id"):
                value = _without_fraction(value)
            # An empty cell of a text file is no value.
            self.expressions[name] = f"nullif(trim(CAST({value} AS VARCHAR)), '')"
            if name == "user_id" and type_ == "VARCHAR":
                self._refuse_text(name, self.expressions[name])
            return
        typed = f"TRY_CAST({value} AS {target})"
        if target == "TIMESTAMPTZ":
            # `infinity`, and years that no calendar of ours has.
            typed = f"CASE WHEN {typed} BETWEEN {_FIRST} AND {_LAST} THEN {typed} END"
        self.expressions[name] = typed
        if type_ != target or target == "TIMESTAMPTZ":
            text = f"nullif(trim(CAST({value} AS VARCHAR)), '')" if type_ in ("VARCHAR", "JSON", "BLOB") else value
            self._unreadable.append((f"({typed}) IS NULL AND {text} IS NOT NULL", name))

    def _add_attributes(self, columns: tuple[str, ...]) -> None:
        entries = []
        for name in columns:
            value = f"nullif(CAST({identifier(name)} AS VARCHAR), '')"
            entries.append(f"{{'k': {quoted(name)}, 'v': {value}}}")
        self.expressions["attributes"] = (
            f"map_from_entries(list_filter([{', '.join(entries)}], lambda entry: entry.v IS NOT NULL))"
        )
        self.origins["attributes"] = f"columns {', '.join(f'`{name}`' for name in columns)}"

    def _refuse_text(self, name: str, value: str) -> None:
        """Refuse what validation could not see any more: it gets a pseudonym in place of a user id."""
        too_long, nul = f"{name} is longer than {MAX_USER_BYTES:,} bytes", f"{name} holds a NUL character"
        self._refused += [(f"strlen({value}) > {MAX_USER_BYTES}", too_long), (f"contains({value}, chr(0))", nul)]


def _without_fraction(value: str) -> str:
    """Return a number as an id: a column of whole ids with a gap has fractions in many tools, and 17850.0 is 17850."""
    whole = f"CASE WHEN {value} = trunc({value}) THEN CAST(TRY_CAST({value} AS BIGINT) AS VARCHAR) END"
    return f"coalesce({whole}, CAST({value} AS VARCHAR))"


def _unused(mapping: TableMapping, relation: Relation) -> list[str]:
    """Return the columns that are neither mapped nor named in a piece of SQL."""
    sql = [*mapping.expressions.values(), *mapping.leave_out.values(), *mapping.reject.values()]
    spoken_of = {column.casefold() for column in (*mapping.columns.values(), *mapping.attributes)}
    spoken_of |= {word.casefold() for text in sql for word in re.findall(r"\w+", text)}
    return [name for name in relation.columns if name.casefold() not in spoken_of]


def _joined(words: list[tuple[str, str]], separator: str) -> str:
    """Return SQL for the words whose conditions hold; where none does, as nearly always, nothing is put together."""
    if not words:
        return "NULL"
    any_of = " OR ".join(f"({condition})" for condition, _ in words)
    parts = ", ".join(f"CASE WHEN {condition} THEN {quoted(word)} END" for condition, word in words)
    return f"CASE WHEN {any_of} THEN concat_ws({quoted(separator)}, {parts}) END"


def _defaults(table: str, typed: Mapping[str, str], until: datetime) -> dict[str, tuple[str, str]]:
    """Return what stands in for columns that the mapping leaves out, and what that is in words."""
    if table == "items":
        return {"available": ("true", "true"), "updated_at": (timestamp(until), "the moment a change is first seen")}
    if table == "events":
        arrival = "event_timestamp, or when a late row is first seen"
        return {"created_timestamp": (typed.get("event_timestamp", "NULL"), arrival)}
    return {"consent": ("true", "true")} if table == "users" else {}


def _scalar(connection: duckdb.DuckDBPyConnection, table: str, query: str) -> Any:
    try:
        return scalar(connection, query)
    except duckdb.Error as error:
        raise _unreadable(table, "", error) from None


def _unreadable(table: str, described: str, error: duckdb.Error) -> HeadraceError:
    of = f" ({described})" if described else ""
    return DataError(
        f"The files of `{table}`{of} cannot be read: {one_line(error)} Mend the file, or say how to read it in the "
        f"mapping, such as `{table}.options: {{delim: ';', strict_mode: false}}`."
    )
