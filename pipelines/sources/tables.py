"""Your own tables: CSV, Parquet or JSON files through DuckDB, brought into contract form by one mapping file.

docs/your-own-data.md explains the mapping file and shows one.
"""

import difflib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ConfigError, DataError
from pipelines.schemas import TABLES
from pipelines.sources.base import SourceTables, arrived, contract_query, timestamp
from pipelines.stores.sql import identifier, quoted, scalar, sql_type

READERS = {"csv": "read_csv", "parquet": "read_parquet", "json": "read_json"}
_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
REQUIRED = {
    "items": ("item_id", "title"),
    "events": ("user_id", "event_type", "event_timestamp"),
    "users": ("user_id",),
    "judgements": ("query", "item_id", "grade"),
}
"""Columns that must come from somewhere; the others have a sensible default or are null."""
_ARRIVAL = {"items": "updated_at", "events": "created_timestamp"}
"""Columns that say when a row arrived."""
_ROW, _FILE = "headrace_row", "headrace_file"


class TableMapping(BaseModel):
    """Where one table is and what its columns are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: str | tuple[str, ...]
    """Paths, relative to the mapping file; `*` and `**` match many."""
    format: Literal["csv", "parquet", "json"] | None = None
    """Read from the file's suffix where it is not given."""
    options: dict[str, str | bool | int] = Field(default_factory=dict)
    """Options of DuckDB's reader, such as `delim` or `strict_mode` of a CSV file."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Contract column -> column of the files."""
    expressions: dict[str, str] = Field(default_factory=dict)
    """Contract column -> SQL expression over the columns of the files."""
    constants: dict[str, str | float | bool] = Field(default_factory=dict)
    """Contract column -> the same value for every row."""
    attributes: tuple[str, ...] = ()
    """Columns of the files that are kept as attributes (items and users)."""


class TablesSource:
    """Reads the files that a mapping file names."""

    name = "tables"

    def __init__(self, mapping: Path) -> None:
        """Read the mapping file; the tables are read later.

        Raises:
            ConfigError: the mapping file does not exist, is not YAML, or names something that does not exist.
        """
        self._mapping_file = mapping
        self._tables = load_mapping(mapping)

    def read(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        since: datetime | None,
        until: datetime,
        state: Mapping[str, Any],  # noqa: ARG002
    ) -> SourceTables:
        """Describe the mapped tables.

        A value that does not fit its column's type becomes null and is named in `unreadable`, so that validation
        sets the row aside. Without an arrival column every row is given each time, and what is known is left out later.

        Raises:
            ConfigError: files or columns that the mapping names do not exist.
            DataError: a file cannot be read, or has no rows.
        """
        queries = {table: self._query(connection, table, since=since, until=until) for table in self._tables}
        return SourceTables(
            queries=queries,
            arrival_known={
                table: _ARRIVAL.get(table, "") in _mapped(mapping) for table, mapping in self._tables.items()
            },
        )

    def _query(
        self, connection: duckdb.DuckDBPyConnection, table: str, *, since: datetime | None, until: datetime
    ) -> str:
        mapping = self._tables[table]
        relation = f"({self._relation(table, mapping)})"
        found = self._columns_found(connection, table, relation)
        self._check_columns(table, mapping, found)
        expressions = {name: identifier(column) for name, column in mapping.columns.items()}
        expressions |= {name: f"({expression})" for name, expression in mapping.expressions.items()}
        expressions |= {name: quoted(str(value)) for name, value in mapping.constants.items()}
        if mapping.attributes:
            entries = ", ".join(
                f"{{'k': {quoted(name)}, 'v': nullif(CAST({identifier(name)} AS VARCHAR), '')}}"
                for name in mapping.attributes
            )
            expressions["attributes"] = f"map_from_entries(list_filter([{entries}], lambda entry: entry.v IS NOT NULL))"
        typed, unreadable = {}, []
        for field in TABLES[table]:
            name, type_ = field.name, sql_type(field.type)
            if name not in expressions or name == "attributes":
                continue
            # An empty cell of a text file is no value.
            value = (
                f"nullif(trim(CAST({expressions[name]} AS VARCHAR)), '')" if type_ == "VARCHAR" else expressions[name]
            )
            typed[name] = f"TRY_CAST({value} AS {type_})"
            given = f"nullif(trim(CAST({expressions[name]} AS VARCHAR)), '') IS NOT NULL"
            if type_ != "VARCHAR":
                unreadable.append(f"CASE WHEN {given} AND {typed[name]} IS NULL THEN {quoted(name)} END")
        if "attributes" in expressions:
            typed["attributes"] = expressions["attributes"]
        typed["unreadable"] = f"nullif(concat_ws(', ', {', '.join(unreadable)}), '')" if unreadable else "NULL"
        typed |= {"row_number": _ROW, "source": _FILE}
        for name, default in _defaults(table, typed, until).items():
            typed.setdefault(name, default)
        query = contract_query(table, typed, relation)
        if column := _ARRIVAL.get(table):
            known = column in _mapped(mapping)
            condition = arrived(column, since if known else None, until)
            query = f"SELECT * FROM ({query}) WHERE {column} IS NULL OR ({condition})"
        try:
            scalar(connection, f"DESCRIBE {query}")
        except duckdb.Error as error:
            raise ConfigError(
                f"{self._mapping_file}: `{table}.expressions` cannot be used: {_first_line(error)} "
                f"The files have the columns {', '.join(found)}."
            ) from None
        return query

    def _relation(self, table: str, mapping: TableMapping) -> str:
        patterns = (mapping.files,) if isinstance(mapping.files, str) else mapping.files
        files: list[Path] = []
        for pattern in patterns:
            matched = _matching(self._mapping_file.parent, pattern)
            if not matched:
                raise ConfigError(
                    f"{self._mapping_file}: `{table}.files`: nothing matches {pattern} (looked in "
                    f"{self._mapping_file.parent.resolve()}): correct the path or put the file there."
                )
            files += matched
        kinds = {mapping.format or _SUFFIXES.get(_bare_suffix(file), "") for file in files}
        if len(kinds) != 1 or kinds == {""}:
            raise ConfigError(
                f"{self._mapping_file}: `{table}.files`: cannot tell how to read "
                f"{', '.join(file.name for file in files[:3])}: use one kind of file "
                f"({', '.join(sorted(_SUFFIXES))}) or set `{table}.format` to {', '.join(READERS)}."
            )
        kind = kinds.pop()
        # Text files are read as text: a wrong value then costs its row, not the run.
        given = ({"all_varchar": True, "header": True} if kind == "csv" else {}) | mapping.options
        options = "".join(f", {identifier(name)} = {_literal(value)}" for name, value in given.items())
        return " UNION ALL BY NAME ".join(
            f"SELECT *, row_number() OVER () AS {_ROW}, {quoted(file.name)} AS {_FILE} "
            f"FROM {READERS[kind]}({quoted(file)}{options})"
            for file in files
        )

    def _columns_found(self, connection: duckdb.DuckDBPyConnection, table: str, relation: str) -> list[str]:
        try:
            found = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
            has_rows = scalar(connection, f"SELECT true FROM {relation} LIMIT 1")
        except duckdb.Error as error:
            raise DataError(
                f"The files of `{table}` cannot be read: {_first_line(error)} Mend the file, or say how "
                f"to read it in {self._mapping_file}, such as `{table}.options: {{delim: ';', strict_mode: false}}`."
            ) from None
        if not has_rows:
            raise DataError(
                f"The table {table} is empty: the files that `{table}.files` in {self._mapping_file} names have no "
                "rows. Fill them, or take the table out of the mapping."
            )
        return [name for name in found if name not in (_ROW, _FILE)]

    def _check_columns(self, table: str, mapping: TableMapping, found: list[str]) -> None:
        wanted = [(f"columns.{name}", column) for name, column in mapping.columns.items()]
        wanted += [("attributes", column) for column in mapping.attributes]
        folded = {name.casefold() for name in found}
        for where, column in wanted:
            if column.casefold() not in folded:
                raise ConfigError(
                    f"{self._mapping_file}: `{table}.{where}`: the files have no column `{column}`"
                    f"{_nearest(column, found)} (they have: {', '.join(found)})."
                )


def load_mapping(path: Path) -> dict[str, TableMapping]:
    """Read and check a mapping file.

    Raises:
        ConfigError: the file does not exist, is not YAML, or holds a table, key or column that is not known.
    """
    if not path.is_file():
        raise ConfigError(
            f"The mapping file {path} does not exist: set source.mapping to the YAML file that maps your columns "
            "(docs/your-own-data.md shows one)."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{path} maps no table: it needs `items` and `events` (docs/your-own-data.md shows how).")
    tables = {}
    for table, settings in values.items():
        if table not in TABLES:
            raise ConfigError(
                f"{path}: `{table}` is not a table{_nearest(table, TABLES)} (known: {', '.join(TABLES)})."
            )
        try:
            tables[table] = TableMapping.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(_explained(path, table, error)) from None
        _check_names(path, table, tables[table])
    if "items" not in tables:
        raise ConfigError(
            f"{path} maps {', '.join(tables)} but not `items`, which every other table refers to: add it."
        )
    return tables


def _check_names(path: Path, table: str, mapping: TableMapping) -> None:
    """Refuse contract columns that do not exist, that are mapped twice or that are needed and absent."""
    known = [name for name in TABLES[table].names if name != "attributes"]
    for part in ("columns", "expressions", "constants"):
        for name in getattr(mapping, part):
            if name not in known:
                raise ConfigError(
                    f"{path}: `{table}.{part}.{name}`: {table} has no such column{_nearest(name, known)} "
                    f"(known: {', '.join(known)})."
                )
    names = [*mapping.columns, *mapping.expressions, *mapping.constants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"{path}: `{table}` maps {', '.join(twice)} twice: keep one of columns, expressions, constants."
        )
    if missing := [name for name in REQUIRED[table] if name not in names]:
        raise ConfigError(
            f"{path}: `{table}` does not say where {', '.join(f'`{name}`' for name in missing)} "
            f"come{'s' if len(missing) == 1 else ''} from: add it to `{table}.columns`, `expressions` or `constants`."
        )
    if mapping.attributes and "attributes" not in TABLES[table].names:
        raise ConfigError(f"{path}: `{table}.attributes`: only items and users have attributes: take it out.")


def _mapped(mapping: TableMapping) -> set[str]:
    return {*mapping.columns, *mapping.expressions, *mapping.constants}


def _defaults(table: str, typed: Mapping[str, str], until: datetime) -> dict[str, str]:
    """Return what stands in for columns that the mapping leaves out."""
    if table == "items":
        return {"available": "true", "updated_at": timestamp(until)}
    if table == "events":
        return {"created_timestamp": typed["event_timestamp"]}
    return {"consent": "true"} if table == "users" else {}


def _matching(folder: Path, pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    root, relative = (
        (Path(path.anchor), str(path.relative_to(path.anchor))) if path.is_absolute() else (folder, str(path))
    )
    return sorted(file.resolve() for file in root.glob(relative) if file.is_file())


def _bare_suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() in (".gz", ".zst") else file.suffix.lower()


def _literal(value: str | bool | int) -> str:
    return quoted(value) if isinstance(value, str) else str(value).lower()


def _nearest(name: object, known: Any) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean `{near[0]}`?" if near else ""


def _first_line(error: duckdb.Error) -> str:
    line = str(error).strip().splitlines()[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _explained(path: Path, table: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in (table, *first["loc"]))
    if first["type"] == "extra_forbidden":
        known = list(TableMapping.model_fields)
        return f"{path}: `{where}` is not known{_nearest(first['loc'][-1], known)} (known: {', '.join(known)})."
    if first["type"] == "missing":
        return f"{path}: `{where}` is missing: add it (docs/your-own-data.md shows how)."
    return f"{path}: `{where}`: {first['msg']} (found {first['input']!r})."
