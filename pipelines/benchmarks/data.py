"""How fast and how large the data half of the loop is: ingest, validate, build features, on a shop of any size.

The default transactions are multiplied: every copy has users of its own and its own shift of the clock, so that items,
baskets, gaps and seasons are distributed as they are in the original.

    ingest_tables, validate_tables, build_features   one backfill of everything, each step a process of its own
    total                                            the three together: seconds and bytes added, the largest memory
    one day on 30 days, one day on 300 days          the same three steps for one more day, imports not counted
    ratio                                            the second over the first: 1 means that history costs nothing
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.errors import StoreError
from pipelines.places import HOME_VARIABLE
from pipelines.progress import PROGRESS_VARIABLE, Progress, SilentProgress, TerminalProgress
from pipelines.sources.completejourney import package_files
from pipelines.stores.sql import open_duckdb, quoted, scalar

BENCH = "data"
STEPS = ("ingest_tables", "validate_tables", "build_features")
DEFAULT_EVENTS = 10_000_000
_DAY = timedelta(days=1)
_SPREAD_S = 3_600
"""Seconds by which the clocks of the copies differ at most."""
_MEASURED_DAYS = 4
_WRITTEN = {
    "ingest_tables": ("ingested",),
    "validate_tables": ("tables", "quarantine"),
    "build_features": ("features",),
}
"""Folders below the home that a step writes."""
_MAPPING = """\
items:
  files: items.parquet
  columns: {item_id: item_id, title: title, category: category, brand: brand, updated_at: updated_at}
events:
  files: events/*.parquet
  columns:
    event_id: event_id
    user_id: user_id
    session_id: session_id
    item_id: item_id
    value: value
    event_timestamp: happened_at
    created_timestamp: happened_at
  constants: {event_type: purchase}
"""


@dataclass(frozen=True)
class StepRun:
    """One step in a process of its own."""

    step: str
    seconds: float
    peak_mib: float
    written_bytes: int


@dataclass(frozen=True)
class Shop:
    """A folder of files as a shop would deliver them: a catalogue, and one file of events a day."""

    folder: Path
    days: tuple[date, ...]
    events: int

    @property
    def mapping(self) -> Path:
        """The mapping file of the source `tables`."""
        return self.folder / "mapping.yaml"

    def deliver(self, days: Sequence[date]) -> None:
        """Put the files of these days where the mapping finds them."""
        (self.folder / "events").mkdir(exist_ok=True)
        for day in days:
            (self.folder / "waiting" / f"{day}.parquet").rename(self.folder / "events" / f"{day}.parquet")

    def take_back(self) -> None:
        """Undo every delivery."""
        for file in (self.folder / "events").glob("*.parquet"):
            file.rename(self.folder / "waiting" / file.name)


def bench_data(
    *,
    events: int = DEFAULT_EVENTS,
    json_file: Path | None = None,
    work_dir: Path | None = None,
    increments: bool = True,
) -> None:
    """Measure the steps, print a table and write the records.

    Args:
        events: About how many events the shop has.
        json_file: Where the records go; None writes none.
        work_dir: Where the shop and the homes are made and removed again: some 40 bytes an event.
        increments: Also measure one day on top of 30 and of 300 days.

    Raises:
        ConfigError: the default data is not installed.
        StoreError: a step failed.
    """
    progress = TerminalProgress()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-data-", dir=work_dir) as name:
        shop = make_shop(Path(name) / "shop", events=events, progress=progress)
        data = f"{shop.events:,} purchases of {len(shop.days)} days"
        records = backfill_records(backfill(shop, Path(name) / "backfill", progress), shop.events, data)
        shutil.rmtree(Path(name) / "backfill")
        if increments:
            shop.take_back()
            records += increment_records(measure_increments(shop, Path(name) / "increments", progress), data)
    click.echo(records_table(records))
    if json_file:
        write_records(records, json_file)


def make_shop(folder: Path, *, events: int, progress: Progress) -> Shop:
    """Write a shop with about so many events, day by day, in bounded memory."""
    files = package_files()
    (folder / "waiting").mkdir(parents=True)
    (folder / "mapping.yaml").write_text(_MAPPING, encoding="utf-8")
    # Quantities of 0 or less are corrections, and lines of unknown products would only go to quarantine.
    bought = (
        f"read_parquet({quoted(files['transactions'])}) WHERE quantity > 0 "
        f"AND product_id IN (SELECT product_id FROM read_parquet({quoted(files['products'])}))"
    )
    with open_duckdb() as connection:
        connection.execute(
            f"CREATE TABLE lines AS SELECT *, CAST(transaction_timestamp AS DATE) AS day FROM {bought} ORDER BY day"
        )
        original = int(scalar(connection, "SELECT count(*) FROM lines"))
        newest = scalar(connection, "SELECT max(day) FROM lines")
        weeks = (datetime.now(UTC).date() - newest).days // 7
        whole, rest = divmod(events, original)
        connection.execute(
            f"COPY ({_items_query(files['products'])}) TO {quoted(folder / 'items.parquet')} (FORMAT parquet)"
        )
        made, days = 0, []
        for (day,) in (found := connection.execute("SELECT DISTINCT day FROM lines ORDER BY day").fetchall()):
            moved = day + weeks * 7 * _DAY
            target = folder / "waiting" / f"{moved}.parquet"
            query = _day_query(day, weeks * 7, whole, rest / original)
            made += int(scalar(connection, f"COPY ({query}) TO {quoted(target)} (FORMAT parquet, COMPRESSION zstd)"))
            days.append(moved)
            progress.update("making the shop", len(days), len(found), f"{made:,} events")
    return Shop(folder, tuple(days), made)


def backfill(shop: Shop, home: Path, progress: Progress) -> list[StepRun]:
    """Run the three steps over the whole shop, each as a command of its own.

    Raises:
        StoreError: a step failed.
    """
    shop.deliver(shop.days)
    home.mkdir()
    runs = []
    for done, step in enumerate(STEPS):
        progress.update("backfill", done, len(STEPS), step)
        runs.append(_run_command(step, shop, home))
    progress.update("backfill", len(STEPS), len(STEPS))
    return runs


def measure_increments(shop: Shop, home: Path, progress: Progress) -> dict[int, list[float]]:
    """Return, by days of history, the seconds that each of some more days took.

    Everything runs in this process, and one day before the measured ones, so that imports are not counted.
    """
    home.mkdir()
    seconds: dict[int, list[float]] = {}
    with _environment(shop, home):
        start = 0
        for history in (30, 300):
            stops = [history, *range(history + 1, history + 2 + _MEASURED_DAYS)]
            taken = []
            for stop in stops:
                shop.deliver(shop.days[start:stop])
                taken.append(_run_here(_end_of(shop.days[stop - 1])))
                start = stop
                progress.update(f"one day on {history} days", len(taken), len(stops), f"{taken[-1]:.2f} s")
            seconds[history] = taken[2:]
    return seconds


def backfill_records(runs: Sequence[StepRun], events: int, data: str) -> list[BenchmarkRecord]:
    """Return speed, memory and size of each step and of all of them."""
    whole = StepRun(
        "total",
        sum(run.seconds for run in runs),
        max(run.peak_mib for run in runs),
        sum(run.written_bytes for run in runs),
    )
    return [
        BenchmarkRecord(bench=BENCH, data=data, case=run.step, metric=metric, value=value, unit=unit, seeds=1)
        for run in (*runs, whole)
        for metric, value, unit in (
            ("events_per_s", events / run.seconds, "1/s"),
            ("peak_mib", run.peak_mib, "MiB"),
            ("bytes_per_event", run.written_bytes / events, "B"),
            ("seconds", run.seconds, "s"),
        )
    ]


def increment_records(seconds: dict[int, list[float]], data: str) -> list[BenchmarkRecord]:
    """Return the median of one more day by days of history, and their ratio; the intervals are the ranges."""
    records = [
        BenchmarkRecord(
            bench=BENCH,
            data=data,
            case=f"one day on {history} days",
            metric="seconds",
            value=statistics.median(taken),
            low=min(taken),
            high=max(taken),
            unit="s",
            seeds=len(taken),
        )
        for history, taken in seconds.items()
    ]
    short, long = (statistics.median(seconds[history]) for history in sorted(seconds))
    ratio = BenchmarkRecord(
        bench=BENCH, data=data, case="ratio", metric="ratio", value=long / short, unit="", seeds=_MEASURED_DAYS
    )
    return [*records, ratio]


def _items_query(products: Path) -> str:
    return (
        "SELECT CAST(product_id AS VARCHAR) AS item_id, concat_ws(', ', product_type, package_size, brand) AS title, "
        "product_category AS category, brand, TIMESTAMPTZ '2010-01-01 00:00:00+00' AS updated_at "
        f"FROM read_parquet({quoted(products)})"
    )


def _day_query(day: date, shift_days: int, whole: int, rest: float) -> str:
    """Return one day of all copies: so many whole ones, and of one more the share `rest` of its baskets."""
    shift = f"INTERVAL {shift_days} DAY + to_seconds(hash(household_id, copy) % {_SPREAD_S})"
    return f"""
SELECT
    concat(copy, '-', basket_id, '-', product_id) AS event_id,
    concat(copy, '-', household_id) AS user_id,
    concat(copy, '-', basket_id) AS session_id,
    CAST(product_id AS VARCHAR) AS item_id,
    sales_value AS value,
    timezone('UTC', transaction_timestamp) + {shift} AS happened_at
FROM lines CROSS JOIN range({whole + 1}) AS copies(copy)
WHERE day = DATE '{day}' AND (copy < {whole} OR hash(basket_id) % 1000000 < {int(rest * 1_000_000)})
ORDER BY happened_at, event_id
"""


def _end_of(day: date) -> datetime:
    """Return a moment by which all events in the file of that day have happened."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + _DAY + timedelta(seconds=_SPREAD_S)


@contextmanager
def _environment(shop: Shop, home: Path) -> Iterator[dict[str, str]]:
    """Make the environment variables those of a home whose source is the shop."""
    settings = home / "settings.yaml"
    settings.write_text(json.dumps({"source": {"kind": "tables", "mapping": str(shop.mapping)}}), encoding="utf-8")
    before = dict(os.environ)
    os.environ |= {HOME_VARIABLE: str(home), "HEADRACE_CONFIG": str(settings)}
    try:
        yield dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run_command(step: str, shop: Shop, home: Path) -> StepRun:
    """Run a step as a person would, and read what it says of itself."""
    said = home / f"{step}.progress"
    until = _end_of(shop.days[-1]).replace(tzinfo=None).isoformat()
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", step]
    with _environment(shop, home) as environment:
        done = subprocess.run(
            command + (["--until", until] if step == "ingest_tables" else []),
            env={**environment, PROGRESS_VARIABLE: str(said)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise StoreError(f"The step {step} failed: {done.stderr.strip()[-2_000:]}")
    finished: dict[str, Any] = json.loads(said.read_text(encoding="utf-8").splitlines()[-1])
    written = sum(_size(home / folder) for folder in _WRITTEN[step])
    return StepRun(step, finished["seconds"], finished["peak_mib"], written)


def _run_here(until: datetime) -> float:
    """Run the three steps in this process and return the seconds."""
    from pipelines.wiring import Wiring, run_step

    found = Wiring.from_environment()
    wiring = Wiring(found.places, found.config, SilentProgress())
    started = time.perf_counter()
    run = run_step("ingest_tables", wiring=wiring, until=until)["run"]
    for step in STEPS[1:]:
        run_step(step, wiring=wiring, run=run)
    return time.perf_counter() - started


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
