"""What every benchmark writes: a JSON list of records, and the same as a table."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipelines.schemas import Record
from pipelines.stores.files import write_text


class BenchmarkRecord(Record):
    """One number of one case."""

    bench: str
    data: str
    case: str
    """The model, variant or kind of request."""
    metric: str
    value: float
    low: float | None = None
    """Lower end of the 95 % interval; None where there is none."""
    high: float | None = None
    """Upper end."""
    unit: str
    seeds: int
    """Repetitions behind the value."""


def write_records(records: Sequence[BenchmarkRecord], path: Path) -> None:
    """Write the records as a JSON list, whole or not at all."""
    write_text(path, json.dumps([record.model_dump() for record in records], indent=2) + "\n")


def records_table(records: Sequence[BenchmarkRecord], decimals: int = 2, *, signed: bool = False) -> str:
    """Return a table for a terminal: one line a case, one column a metric, intervals behind the values."""
    metrics = list(dict.fromkeys(record.metric for record in records))
    cells = {(record.case, record.metric): _cell(record, decimals, "+" if signed else "") for record in records}
    cases = list(dict.fromkeys(record.case for record in records))
    rows = [["case", *metrics], *([case, *(cells.get((case, metric), "") for metric in metrics)] for case in cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cell(record: BenchmarkRecord, decimals: int, sign: str) -> str:
    value, low, high = (
        "" if number is None else f"{number:{sign}.{decimals}f}" for number in (record.value, record.low, record.high)
    )
    return f"{value} [{low}, {high}]" if low and high else value
