"""CSV, Parquet and JSON files, on this machine or in S3, as one relation with row numbers."""

import csv
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipelines.errors import ConfigError, DataError
from pipelines.sources.mapping import TableMapping, named
from pipelines.stores.sql import identifier, quoted, quoted_list

ROW, FILE = "headrace_row", "headrace_file"
"""Columns that every relation has beside the data's own: the row's number from 1, and where it is from."""
SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
_OURS = "headrace_"
_S3 = "s3://"
_DELIMITERS = ",;\t|"
_PLAIN_CSV = {
    "delim",
    "sep",
    "quote",
    "escape",
    "encoding",
    "compression",
    "strict_mode",
    "null_padding",
    "ignore_errors",
}
"""Options that leave it to the first line what the columns are."""
_CSV_FAULTS = ("Expected Number", "Value with unterminated", "Invalid unicode", "Maximum line size", "The search space")


@dataclass(frozen=True)
class Relation:
    """Rows as they are, before anything is mapped."""

    query: str
    columns: dict[str, str]
    """Column -> DuckDB type, without `ROW` and `FILE`."""
    described: str
    """What a person calls it: `items.csv`, `3 files such as parts/a.csv`, `postgres sales.orders`."""


def files_relation(
    connection: duckdb.DuckDBPyConnection, mapping_file: Path, table: str, mapping: TableMapping
) -> Relation:
    """Return the relation of the files that `<table>.files` names.

    Raises:
        ConfigError: nothing matches, the kind of file is not clear, or `query` cannot be used.
        DataError: a file cannot be read.
    """
    folder = mapping_file.parent.absolute()
    where = f"{mapping_file}: `{table}.files`"
    files = [file for pattern in mapping.patterns for file in _matching(connection, folder, pattern, where)]
    kind = _kind(files, mapping, where, table)
    described = _name(folder, files[0])
    if len(files) > 1:
        described = f"{len(files):,} files such as {described}"
    reader = {"csv": _csv, "parquet": _parquet, "json": _json}[kind]
    try:
        query = reader(connection, folder, files, mapping.options)
        _refuse_our_names(connection, query, where)
        columns = described_columns(connection, query)
    except duckdb.Error as error:
        raise DataError(
            f"The files of `{table}` ({described}) cannot be read: {one_line(error)} Mend the file, or say how "
            f"to read it in {mapping_file}, such as `{table}.options: {{delim: ';', strict_mode: false}}`."
        ) from None
    if mapping.query is not None:
        query, columns = _queried(connection, mapping.query, query, described, f"{mapping_file}: `{table}.query`")
    return Relation(query, columns, described)


def _refuse_our_names(connection: duckdb.DuckDBPyConnection, query: str, where: str) -> None:
    """Refuse data that has a column of ours beside the two that every relation gets.

    Raises:
        ConfigError: it has.
    """
    names = [row[0] for row in connection.execute(f"DESCRIBE {query}").fetchall()]
    for ours in (ROW, FILE):
        names.remove(ours)
    if taken := [name for name in names if name.casefold().startswith(_OURS)]:
        raise ConfigError(
            f"{where}: a column is called `{taken[0]}`, and names that begin with `{_OURS}` are ours: rename it in the "
            "files."
        )


def described_columns(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    """Return the names and DuckDB types of a query's columns, without those of ours."""
    rows = connection.execute(f"DESCRIBE {query}").fetchall()
    return {row[0]: row[1] for row in rows if row[0] not in (ROW, FILE)}


def one_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse SQL that ends what it is put into and goes on with a statement of its own.

    Raises:
        duckdb.Error: it does not parse, or holds more than one statement.
    """
    if len(connection.extract_statements(sql)) != 1:
        raise duckdb.ParserException("Parser Error: more than one statement")


def one_line(error: Exception) -> str:
    """Return what DuckDB says as one sentence that names file and row, without the row's own text.

    What stands in a broken row may be a person's name.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    told = lines[0]
    if "CSV Error" in told:
        fault = next((line for line in lines if line.startswith(_CSV_FAULTS)), "")
        file = next((line.removeprefix("file = ") for line in lines if line.startswith("file = ")), "")
        told = f"{told} {fault}".strip() + (f" ({file})" if file else "")
    told = _own_count(told)[:500]
    return told if told.endswith((".", "!", "?")) else f"{told}."


def _own_count(told: str) -> str:
    """Return the sentence with the right line of a JSON file: DuckDB counts one too many."""
    found = re.search(r'Malformed JSON in file "(.+)", at byte \d+ in (?:line|record/value) (\d+)', told)
    if not found or int(found[2]) < 2:
        return told
    try:
        with Path(found[1]).open(encoding="utf-8") as lines:
            line = next(itertools.islice(lines, int(found[2]) - 2, None), "")
            json.loads(line)
    except json.JSONDecodeError:
        return told.replace(f" {found[2]}:", f" {int(found[2]) - 1}:")
    except (OSError, UnicodeDecodeError):
        pass
    return told


def _kind(files: list[str], mapping: TableMapping, where: str, table: str) -> str:
    kinds = {mapping.format or SUFFIXES.get(_bare_suffix(file), "") for file in files}
    if len(kinds) != 1 or kinds == {""}:
        raise ConfigError(
            f"{where}: cannot tell how to read {', '.join(Path(file).name for file in files[:3])}: use one kind of "
            f"file ({', '.join(sorted(SUFFIXES))}) or set `{table}.format` to csv, parquet or json."
        )
    return kinds.pop()


def _csv(connection: duckdb.DuckDBPyConnection, folder: Path, files: list[str], options: Mapping[str, Any]) -> str:
    """Read CSV as text: a wrong value then costs its row, not the run.

    The first line says what the columns are, so that a row with more or fewer cells is an error that names the row.
    DuckDB's own guess would skip rows until the rest agrees.
    """
    given = {file: _csv_options(connection, file, options) for file in files}
    return _one_by_one("read_csv", folder, given)


def _csv_options(connection: duckdb.DuckDBPyConnection, file: str, options: Mapping[str, Any]) -> dict[str, Any]:
    guessed = {"all_varchar": True, "header": True} | dict(options)
    if not set(options) <= _PLAIN_CSV:
        return guessed
    passed_on = {name: value for name, value in options.items() if name in ("encoding", "compression")}
    lines = connection.execute(
        f"FROM read_csv({quoted(file)}, auto_detect = false, header = false, delim = '\x01', quote = '', escape = '', "
        f"columns = {{'line': 'VARCHAR'}}{_options(passed_on)}) LIMIT 1"
    ).fetchall()
    quote = str(options.get("quote", '"'))
    if not lines or not lines[0][0] or (quote and lines[0][0].count(quote) % 2):
        return guessed
    delimiters = [str(options[name]) for name in ("delim", "sep") if name in options] or list(_DELIMITERS)
    heads = {delimiter: _cells(lines[0][0], delimiter, quote) for delimiter in delimiters if len(delimiter) == 1}
    if not heads:
        return guessed
    delimiter = max(heads, key=lambda one: len(heads[one]))
    names = _distinct(heads[delimiter])
    settled = {"auto_detect": False, "header": True, "delim": delimiter, "quote": quote, "escape": quote}
    kept = {name: value for name, value in options.items() if name != "sep"}
    return settled | kept | {"columns": dict.fromkeys(names, "VARCHAR")}


def _cells(line: str, delimiter: str, quote: str) -> list[str]:
    quoting = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    return next(csv.reader([line], delimiter=delimiter, **quoting))


def _distinct(names: list[str]) -> list[str]:
    """Return names that differ, whatever their case, and are not blank."""
    found: dict[str, str] = {}
    for number, name in enumerate(names):
        wanted = name.strip() or f"column{number}"
        while wanted.casefold() in found:
            wanted = f"{wanted}_{number}"
        found[wanted.casefold()] = wanted
    return list(found.values())


def _json(connection: duckdb.DuckDBPyConnection, folder: Path, files: list[str], options: Mapping[str, Any]) -> str:
    """Read JSON as text as well; what is nested stays JSON, for expressions such as `buyer->>'id'`."""
    given = {}
    for file in files:
        found = connection.execute(f"DESCRIBE FROM read_json({quoted(file)}{_options(options)})").fetchall()
        types = {
            name: "JSON" if type_ == "JSON" or type_.endswith(("]", ")")) else "VARCHAR" for name, type_, *_ in found
        }
        given[file] = dict(options) if "columns" in options else dict(options) | {"columns": types}
    return _one_by_one("read_json", folder, given)


def _parquet(
    connection: duckdb.DuckDBPyConnection,  # noqa: ARG001
    folder: Path,
    files: list[str],
    options: Mapping[str, Any],
) -> str:
    given = {"union_by_name": True, "file_row_number": True, "filename": "headrace_path"} | dict(options)
    name = f"replace(headrace_path, {quoted(f'{folder}/')}, '')"
    return (
        f"SELECT * EXCLUDE (file_row_number, headrace_path), file_row_number + 1 AS {ROW}, {name} AS {FILE} "
        f"FROM read_parquet({quoted_list(files)}{_options(given)})"
    )


def _one_by_one(reader: str, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    return " UNION ALL BY NAME ".join(
        f"SELECT *, row_number() OVER () AS {ROW}, {quoted(_name(folder, file))} AS {FILE} "
        f"FROM {reader}({quoted(file)}{_options(options)})"
        for file, options in files.items()
    )


def _queried(
    connection: duckdb.DuckDBPyConnection, sql: str, files: str, described: str, where: str
) -> tuple[str, dict[str, str]]:
    """Return the user's query over the relation `files`, with the origin columns that it does not pass on itself."""
    query = f"WITH files AS ({files}) FROM ({sql.strip().rstrip(';')}\n)"
    try:
        one_statement(connection, query)
        names = [row[0] for row in connection.execute(f"DESCRIBE {query}").fetchall()]
        added = {ROW: "row_number() OVER ()", FILE: quoted(described)}
        parts = "".join(f", {value} AS {name}" for name, value in added.items() if name not in names)
        query = f"WITH files AS ({files}) SELECT *{parts} FROM ({sql.strip().rstrip(';')}\n)"
        return query, described_columns(connection, query)
    except duckdb.Error as error:
        raise ConfigError(
            f"{where} cannot be used: {one_line(error)} The files are its relation `files`, with the columns "
            f"{named(described_columns(connection, files))}."
        ) from None


def _matching(connection: duckdb.DuckDBPyConnection, folder: Path, pattern: str, where: str) -> list[str]:
    if pattern.startswith(_S3):
        return _matching_s3(connection, pattern, where)
    path = Path(pattern).expanduser()
    if "\0" in pattern:
        raise ConfigError(f"{where}: a path cannot hold a NUL character: correct it.")
    root, relative = (
        (Path(path.anchor), str(path.relative_to(path.anchor))) if path.is_absolute() else (folder, pattern)
    )
    try:
        found = [str(file) for file in sorted(root.glob(relative)) if file.is_file()]
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"{where}: {pattern} cannot be looked for ({error}): correct the path.") from None
    if found:
        return found
    if (root / relative).is_dir():
        raise ConfigError(f"{where}: {pattern} is a folder: name the files in it, such as `{pattern}/*.parquet`.")
    raise ConfigError(
        f"{where}: nothing matches {pattern} (looked in {folder}): correct the path or put the file there."
    )


def _matching_s3(connection: duckdb.DuckDBPyConnection, pattern: str, where: str) -> list[str]:
    """Return the objects that match; what reads them is registered with DuckDB.

    Credentials, region and endpoint come from the usual variables: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL`.
    """
    system = _s3_file_system()
    try:
        found = [f"{_S3}{path}" for path in sorted(system.glob(pattern.removeprefix(_S3))) if system.isfile(path)]
    except OSError as error:
        raise DataError(
            f"{where}: {pattern} cannot be listed ({' '.join(str(error).split())[:300]}): check AWS_ENDPOINT_URL, "
            "AWS_DEFAULT_REGION and the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None
    if not found:
        raise ConfigError(f"{where}: nothing matches {pattern}: correct the path or put the object there.")
    if not connection.filesystem_is_registered("s3"):
        connection.register_filesystem(system)
    return found


def _s3_file_system() -> Any:
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import S3FileSystem
    except ImportError:
        raise ConfigError("Paths in S3 need the package fsspec: run `pip install 'headrace[s3]'`.") from None

    class S3(ArrowFSWrapper):
        """Pyarrow's S3 client in the form that DuckDB asks for."""

        protocol = "s3"

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options = {"endpoint_override": endpoint, "region": region}
    return S3(S3FileSystem(**{name: value for name, value in options.items() if value}))


def _name(folder: Path, file: str) -> str:
    """Return the path as it is told to a person: relative to the mapping file where it lies below."""
    return file.removeprefix(f"{folder}/")


def _bare_suffix(file: str) -> str:
    path = Path(file)
    return Path(path.stem).suffix.lower() if path.suffix.lower() in (".gz", ".zst") else path.suffix.lower()


def _options(options: Mapping[str, Any]) -> str:
    return "".join(f", {identifier(name)} = {_literal(value)}" for name, value in options.items())


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(name)}: {_literal(inner)}" for name, inner in value.items()) + "}"
    return quoted(value) if isinstance(value, str) else str(value).lower()
