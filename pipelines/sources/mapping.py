"""The mapping file: which of your columns is which, and which rows are no rows of ours.

docs/your-own-data.md explains it and shows one; `headrace source check` explains yours.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import ConfigError
from pipelines.schemas import TABLES

REQUIRED = {
    "items": ("item_id", "title"),
    "events": ("user_id", "event_type", "event_timestamp"),
    "users": ("user_id",),
    "judgements": ("query", "item_id", "grade"),
}
"""Columns that must come from somewhere; the others have a sensible default or are null."""
ARRIVAL = {"items": "updated_at", "events": "created_timestamp"}
"""Columns that say when a row arrived."""
_MAX_BYTES = 1 << 20
_NAMED = 20
"""Names that a sentence lists at most."""
_COMPARED = 500
"""Names that are looked through for a near one: comparing takes a millisecond each."""


class PostgresRelation(BaseModel):
    """A table or a query of a Postgres database."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address_from: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the address, such as `postgresql://reader@db.shop/shop`; never the address."""
    table: str | None = Field(default=None, pattern=r'^("[^"]+"|\w+)(\.("[^"]+"|\w+)){0,2}$')
    """A table or a view, as it is written in SQL: `sales.orders`."""
    query: str | None = None
    """A query in Postgres's own SQL, instead of `table`."""

    @model_validator(mode="after")
    def _one_of(self) -> "PostgresRelation":
        if (self.table is None) == (self.query is None):
            raise ValueError("give one of `table` and `query`")
        return self


class TableMapping(BaseModel):
    """Where one table is and what its columns are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: str | tuple[str, ...] = ()
    """Paths, relative to the mapping file, or `s3://bucket/…`; `*` and `**` match many."""
    postgres: PostgresRelation | None = None
    """A table or query of Postgres instead of files."""
    format: Literal["csv", "parquet", "json"] | None = None
    """Read from the file's suffix where it is not given."""
    options: dict[str, str | bool | int] = Field(default_factory=dict)
    """Options of DuckDB's reader, such as `delim` or `strict_mode` of a CSV file."""
    query: str | None = None
    """SQL over the relation `files`, where rows have to be made of rows: `SELECT … FROM files GROUP BY …`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Contract column -> column of the files."""
    expressions: dict[str, str] = Field(default_factory=dict)
    """Contract column -> SQL expression over the columns of the files."""
    constants: dict[str, str | float | bool] = Field(default_factory=dict)
    """Contract column -> the same value for every row."""
    attributes: tuple[str, ...] = ()
    """Columns of the files that are kept as attributes (items and users)."""
    leave_out: dict[str, str] = Field(default_factory=dict)
    """Reason -> SQL condition: rows that are no rows of this table. They are counted, and not kept."""
    reject: dict[str, str] = Field(default_factory=dict)
    """Reason -> SQL condition: rows that are wrong. They go to quarantine with the reason."""

    @model_validator(mode="after")
    def _one_place(self) -> "TableMapping":
        if bool(self.files) == (self.postgres is not None):
            raise ValueError("give one of `files` and `postgres`")
        if self.postgres and (self.query or self.format or self.options):
            raise ValueError("`query`, `format` and `options` are for files: write the SQL in `postgres.query`")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return the paths as a tuple."""
        return (self.files,) if isinstance(self.files, str) else self.files

    @property
    def mapped(self) -> list[str]:
        """Return the contract columns that come from somewhere, with repetitions."""
        return [*self.columns, *self.expressions, *self.constants]


def load_mapping(path: Path) -> dict[str, TableMapping]:
    """Read and check a mapping file.

    Raises:
        ConfigError: the file does not exist, is not YAML, or holds a table, key or column that is not known.
    """
    tables, problems = read_mapping(path)
    if problems:
        raise ConfigError(problems[0] + and_others(problems))
    return tables


def read_mapping(path: Path) -> tuple[dict[str, TableMapping], list[str]]:
    """Return the tables that are mapped right, and a sentence for everything that is wrong."""
    try:
        values = _yaml(path)
    except ConfigError as error:
        return {}, [str(error)]
    tables, problems = {}, []
    for table, settings in values.items():
        if table not in TABLES:
            problems.append(f"{path}: `{table}` is not a table{nearest(table, TABLES)} (known: {', '.join(TABLES)}).")
            continue
        try:
            mapping = TableMapping.model_validate(settings)
        except ValidationError as error:
            problems += [_explained(path, table, dict(details)) for details in error.errors()]
            continue
        problems += (wrong := _wrong_names(path, table, mapping))
        if not wrong:
            tables[table] = mapping
    if "items" not in values:
        problems.append(f"{path} maps {named(values)} but not `items`, which every other table refers to: add it.")
    return tables, problems


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `, did you mean …?` where a known name is near."""
    near = difflib.get_close_matches(str(name), list(known)[:_COMPARED], n=1)
    return f", did you mean `{near[0]}`?" if near else ""


def named(names: Iterable[object]) -> str:
    """Return the names with commas, cut where they are too many to read."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def and_others(problems: list[str]) -> str:
    """Return how many problems there are beside the first."""
    return "" if len(problems) < 2 else f" (And {len(problems) - 1} more: `headrace source check` lists them.)"


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases (a few lines of them grow to gigabytes) and without a key that is given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, f"the alias *{event.anchor} is not read here: write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` is given twice", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else None)
        return super().construct_mapping(node, deep=deep)


def _yaml(path: Path) -> dict[Any, Any]:
    """Read the file.

    Raises:
        ConfigError: it does not exist, is not text, not YAML or no mapping.
    """
    if not path.is_file():
        raise ConfigError(
            f"The mapping file {path} does not exist: set source.mapping to the YAML file that maps your columns "
            "(docs/your-own-data.md shows one)."
        )
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ConfigError(
            f"{path} has {size:,} bytes, a mapping file at most {_MAX_BYTES:,}: is this the file with the data?"
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    except ValueError as error:  # a value that YAML knows and Python does not, such as the 31st of February
        raise ConfigError(f"{path} holds a value that cannot be read: {error}. Put it in quotes.") from None
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{path} maps no table: it needs `items` and `events` (docs/your-own-data.md shows how).")
    return values


def _wrong_names(path: Path, table: str, mapping: TableMapping) -> list[str]:
    """Say which contract columns do not exist, are mapped twice, or are needed and absent."""
    known = [name for name in TABLES[table].names if name != "attributes"]
    problems = [
        f"{path}: `{table}.{part}.{name}`: {table} has no such column{nearest(name, known)} "
        f"(known: {', '.join(known)})."
        for part in ("columns", "expressions", "constants")
        for name in getattr(mapping, part)
        if name not in known
    ]
    names = mapping.mapped
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(
            f"{path}: `{table}` maps {', '.join(twice)} twice: keep one of columns, expressions, constants."
        )
    if missing := [name for name in REQUIRED[table] if name not in names]:
        problems.append(
            f"{path}: `{table}` does not say where {', '.join(f'`{name}`' for name in missing)} "
            f"come{'s' if len(missing) == 1 else ''} from: add it to `{table}.columns`, `expressions` or `constants`."
        )
    if mapping.attributes and "attributes" not in TABLES[table].names:
        problems.append(f"{path}: `{table}.attributes`: only items and users have attributes: take it out.")
    return problems


def _explained(path: Path, table: str, error: Mapping[str, Any]) -> str:
    """Return one sentence about a value that the mapping file may not hold."""
    location = [str(part) for part in error["loc"]]
    where = ".".join((table, *location))
    if error["type"] == "extra_forbidden":
        known = list((PostgresRelation if "postgres" in location[:-1] else TableMapping).model_fields)
        return f"{path}: `{where}` is not known{nearest(location[-1], known)} (known: {', '.join(known)})."
    if error["type"] == "missing":
        return f"{path}: `{where}` is missing: add it (docs/your-own-data.md shows how)."
    if error["type"] == "value_error":
        return f"{path}: `{where}`: {error['ctx']['error']} (docs/your-own-data.md shows how)."
    if location[-1] == "address_from":
        # What stands there may be a secret: it is not repeated.
        return (
            f"{path}: `{where}` must be the name of an environment variable, such as SHOP_DATABASE_URL, that holds the "
            "address: put the address there and its name here."
        )
    found = re.sub(r"\s+", " ", repr(error["input"]))[:80]
    return f"{path}: `{where}`: {error['msg']} (found {found})."
