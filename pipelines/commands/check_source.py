"""`headrace source check`: what a source would give, before anything is written."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.config import load_config
from pipelines.errors import ConfigError
from pipelines.sources.check import SourceCheck, TableCheck, check_mapping, check_source
from pipelines.stores.sql import open_duckdb


def run_check(mapping: Path | None) -> SourceCheck:
    """Check a mapping file, or the source that the settings name; only reads.

    Raises:
        ConfigError: the settings cannot be read, or name no mapping file.
    """
    config = load_config()
    now = datetime.now(UTC)
    mapping = mapping or config.source.mapping
    with open_duckdb() as connection:
        if mapping is not None:
            return check_mapping(connection, mapping, until=now, config=config)
        if config.source.kind == "tables":
            raise ConfigError(
                "`source.kind` is `tables` but `source.mapping` names no file: set it, or name the file here: "
                "`headrace source check mapping.yaml`."
            )
        from pipelines.sources.completejourney import CompleteJourneySource

        source = CompleteJourneySource(replay_until=config.source.replay_until)
        return check_source(connection, source, until=now, config=config)


def as_json(check: SourceCheck) -> str:
    """Return the check as JSON."""
    return json.dumps(check.model_dump(mode="json"), indent=2, ensure_ascii=False)


def as_text(check: SourceCheck) -> str:
    """Return the check for a terminal."""
    parts = [f"Source: {check.source}"]
    parts += ["\n".join(_table_lines(table)) for table in check.tables]
    if check.problems:
        parts.append("\n".join(f"Problem: {' '.join(problem.split())}" for problem in check.problems))
    else:
        parts.append("No problem found. Next: `headrace ingest_tables`, then `headrace validate_tables`.")
    return "\n\n".join(parts)


def _table_lines(table: TableCheck) -> Iterator[str]:
    yield f"{table.table}: {table.found} ({table.rows_sampled:,} rows looked at)"
    yield f"  Arrival: {table.arrival}."
    rows = [["column", "from", "type found", "has a value", "unreadable", ""]]
    for column in table.columns:
        name = f"{column.column}*" if column.needed else column.column
        note = f"without it {column.note}" if column.note and column.origin == "absent" else column.note or ""
        rows.append(
            [name, column.origin, column.type or "", _share(column.given), _share(column.unreadable, zero=""), note]
        )
    yield from _aligned(rows)
    yield "  (* needed)"
    yield from (f"  {note[0].upper()}{note[1:]}." for note in table.notes)
    for number, row in enumerate(table.sample, start=1):
        values = ", ".join(f"{name}: {_short(value)}" for name, value in row.items() if value not in (None, [], {}))
        yield f"  Row {number}: {values}"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [min(48, max(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    for row in rows:
        cells = (_cut(cell, width).ljust(width) for cell, width in zip(row[:-1], widths, strict=False))
        yield f"  {'  '.join(cells)}  {row[-1]}".rstrip()


def _share(share: float | None, zero: str = "0 %") -> str:
    if share is None:
        return ""
    return zero if share == 0 else "100 %" if share == 1 else f"{share:.1%}".replace("%", " %")


def _short(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return _cut(str(dict(value) if isinstance(value, list) else value), 60)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
