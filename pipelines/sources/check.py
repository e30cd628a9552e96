"""What a source would give, looked at without writing anything: which column became what, and what is missing."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
from pydantic import Field

from pipelines.config import HeadraceConfig
from pipelines.errors import HeadraceError
from pipelines.preparation.behavior import folded
from pipelines.schemas import EVENT_TYPES, TABLES, Record
from pipelines.sources.base import Source
from pipelines.sources.files import one_line
from pipelines.sources.mapping import ARRIVAL, REQUIRED, named, read_mapping
from pipelines.sources.tables import TablePlan, TablesSource
from pipelines.stores.sql import identifier, quoted

SAMPLE_ROWS = 10_000
_ROWS_SHOWN = 5
_HIDDEN = "(becomes a pseudonym)"
_WITHOUT = {
    "items": {
        "category": "popularity, price position and affinity by category stay empty",
        "brand": "affinity to brands stays empty",
        "price": "everything about prices stays empty",
        "updated_at": "the files are read whole each time and compared with the catalogue",
    },
    "events": {
        "event_id": "an id is made of the row's content: rows that agree in everything are one event",
        "session_id": "the purchases of one moment are a basket",
        "item_id": "only searches can be read",
        "query": "search learns from titles only",
        "value": "what users spend stays unknown",
        "created_timestamp": "the files are read whole each time, and a late event counts as arrived when first seen",
    },
    "users": {"attributes": "nothing is known of a user but the events"},
}
"""What follows where a column is absent."""


class ColumnCheck(Record):
    """Where one column of the contract comes from."""

    column: str
    needed: bool
    origin: str
    type: str | None = Field(description="Type of the values as they were found.")
    given: float | None = Field(description="Share of the sample's rows that have a value, in [0, 1].")
    unreadable: float | None = Field(description="Share of the sample's rows whose value does not fit, in [0, 1].")
    note: str | None = None


class TableCheck(Record):
    """What one table would give."""

    table: str
    found: str = Field(description="What is read.")
    rows_sampled: int
    arrival: str
    columns: tuple[ColumnCheck, ...]
    notes: tuple[str, ...]
    sample: tuple[dict[str, Any], ...] = Field(description="Rows in contract form; user ids are not shown.")


class SourceCheck(Record):
    """What a source would give, and everything that is wrong with it."""

    source: str
    tables: tuple[TableCheck, ...]
    problems: tuple[str, ...]


def check_mapping(
    connection: duckdb.DuckDBPyConnection, mapping: Path, *, until: datetime, config: HeadraceConfig
) -> SourceCheck:
    """Check a mapping file and what it names."""
    tables, problems = read_mapping(mapping)
    source = TablesSource(mapping, tables=tables)
    checks = []
    for table in tables:
        try:
            plan = source.plan(connection, table, since=None, until=until)
            problems += plan.problems
            if not plan.problems:
                checks.append(_check_table(connection, table, plan.query, plan, source, config, problems))
        except HeadraceError as error:
            problems.append(str(error))
        except duckdb.Error as error:
            problems.append(f"{mapping}: the rows of `{table}` cannot be read: {one_line(error)}")
    return SourceCheck(source=str(mapping), tables=tuple(checks), problems=tuple(problems))


def check_source(
    connection: duckdb.DuckDBPyConnection, source: Source, *, until: datetime, config: HeadraceConfig
) -> SourceCheck:
    """Check a source that has no mapping file."""
    problems: list[str] = []
    checks = []
    try:
        read = source.read(connection, since=None, until=until, state={})
        for table, query in read.queries.items():
            checks.append(_check_table(connection, table, query, None, source, config, problems))
    except HeadraceError as error:
        problems.append(str(error))
    return SourceCheck(source=source.name, tables=tuple(checks), problems=tuple(problems))


def _check_table(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    query: str,
    plan: TablePlan | None,
    source: Source,
    config: HeadraceConfig,
    problems: list[str],
) -> TableCheck:
    connection.execute(f"CREATE OR REPLACE TEMP TABLE sampled AS FROM ({query}) LIMIT {SAMPLE_ROWS}")
    names = TABLES[table].names
    counts = _counts(connection, names)
    rows = counts.pop("rows")
    columns = tuple(_check_column(table, name, plan, source, counts, rows) for name in names)
    where = (
        source.name if plan is None else f"{source.mapping_file}: `{table}`" if isinstance(source, TablesSource) else ""
    )
    problems += _problems(where, table, columns, rows, config.validation.max_quarantined_share)
    shown = ", ".join(
        f"CASE WHEN {name} IS NOT NULL THEN {quoted(_HIDDEN)} END AS {name}" if name == "user_id" else identifier(name)
        for name in names
    )
    sample = connection.sql(f"SELECT {shown} FROM sampled LIMIT {_ROWS_SHOWN}").to_arrow_table().to_pylist()
    return TableCheck(
        table=table,
        found=plan.relation.described if plan else f"the source {source.name}",
        rows_sampled=rows,
        arrival=_arrival(table, plan),
        columns=columns,
        notes=tuple(_notes(connection, table, plan, config)),
        sample=tuple(sample),
    )


def _counts(connection: duckdb.DuckDBPyConnection, names: list[str]) -> dict[str, int]:
    """Return the sample's rows, and for each column how many have a value and how many an unreadable one."""
    parts = ["count(*) AS rows"]
    for name in names:
        parts.append(f"count({identifier(name)}) AS {identifier(f'{name} given')}")
        listed = f"list_contains(string_split(unreadable, ', '), {quoted(name)})"
        parts.append(f"count(*) FILTER ({listed}) AS {identifier(f'{name} unreadable')}")
    row: dict[str, int] = connection.sql(f"SELECT {', '.join(parts)} FROM sampled").to_arrow_table().to_pylist()[0]
    return row


def _check_column(
    table: str, name: str, plan: TablePlan | None, source: Source, counts: Mapping[str, int], rows: int
) -> ColumnCheck:
    given = counts[f"{name} given"] / rows if rows else None
    unreadable = counts[f"{name} unreadable"] / rows if rows else None
    absent = name not in plan.origins if plan else not given
    note = _WITHOUT.get(table, {}).get(name) if absent or (plan and plan.origins[name].startswith("default")) else None
    return ColumnCheck(
        column=name,
        needed=name in REQUIRED[table],
        origin="absent" if absent else plan.origins[name] if plan else f"made by the source {source.name}",
        type=plan.types.get(name) if plan else None,
        given=None if absent else given,
        unreadable=None if absent else unreadable,
        note=note,
    )


def _problems(where: str, table: str, columns: tuple[ColumnCheck, ...], rows: int, allowed: float) -> Iterator[str]:
    if not rows:
        yield f"{where} has no row of {table} up to now: check the files, `leave_out` and the arrival column."
    for column in columns:
        if column.unreadable is not None and column.unreadable > allowed:
            yield (
                f"{where}: `{column.column}` ({column.origin}) cannot be read as {_kind(table, column.column)} in "
                f"{column.unreadable:.1%} of {rows:,} sampled rows (allowed: {allowed:.1%}): map another column, or "
                "write an expression that converts it."
            )
        elif column.needed and rows and column.given is not None and round(1 - column.given, 9) > allowed:
            yield (
                f"{where}: `{column.column}` ({column.origin}) is needed and missing in {1 - column.given:.1%} of "
                f"{rows:,} sampled rows (allowed: {allowed:.1%}): leave such rows out by a rule, or map another column."
            )


def _kind(table: str, column: str) -> str:
    type_ = str(TABLES[table].field(column).type)
    return {"double": "a number", "float": "a number", "int32": "a whole number", "bool": "true or false"}.get(
        type_, "a time" if type_.startswith("timestamp") else "text"
    )


def _arrival(table: str, plan: TablePlan | None) -> str:
    column = ARRIVAL.get(table)
    if column is None:
        return "read whole each time; what did not change is left out"
    origin = plan.origins.get(column, "absent") if plan else "made by the source"
    if origin.startswith("default"):
        return f"no arrival column (`{column}` is not mapped): read whole each time, what is known is left out"
    return f"by `{column}`, {origin}: each run reads what is new"


def _notes(
    connection: duckdb.DuckDBPyConnection, table: str, plan: TablePlan | None, config: HeadraceConfig
) -> Iterator[str]:
    """Yield what a person should know about the sample: rows left out and rejected, and words for event types."""
    if plan is not None:
        if unused := plan.unused:
            yield f"not used: {named(unused)}"
        left_out = connection.execute(
            f"SELECT reason, count(*) FROM ({plan.reasons} LIMIT {SAMPLE_ROWS}) WHERE reason IS NOT NULL "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        for reason, rows in left_out:
            yield f"left out: {reason}, {rows:,} of the first {SAMPLE_ROWS:,} rows"
    for reason, rows in connection.execute(
        "SELECT rejected_because, count(*) FROM sampled WHERE rejected_because IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).fetchall():
        yield f"rejected: {reason}, {rows:,} of the sampled rows"
    if table != "events":
        return
    known = {name: name for name in EVENT_TYPES} | config.preparation.event_types
    words = connection.execute(
        f"SELECT event_type, {folded('event_type')} AS word, count(*) FROM sampled "
        f"WHERE event_type NOT IN {tuple(EVENT_TYPES)} GROUP BY ALL ORDER BY 3 DESC, 1 LIMIT 20"
    ).fetchall()
    for word, fold, rows in words:
        ours = known.get(fold)
        meaning = (
            f"is {ours}" if ours else "is no event type: its rows are set aside; give it in preparation.event_types"
        )
        yield f"the event type `{word}` ({rows:,} rows) {meaning}"
