"""Kill -9 at random moments: no acknowledged event may be lost or doubled.

    event log   processes append to one log from several threads; each is killed, another takes its place, and a
                reader follows with a cursor all the time
    ingestion   `ingest_tables` and `validate_tables` run again and again while events arrive, and are killed

An event counts as acknowledged once `append` has returned. What was written without having been acknowledged may be
found as well; it is counted apart.
"""

import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import click

from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.errors import StoreError
from pipelines.places import HOME_VARIABLE, Places
from pipelines.stores.event_log import EventLog

BENCH = "stress-data"
KILLS = 100
_SEED = 13
_PRELOADED = (
    "__main__",
    "great_expectations",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pipelines.benchmarks.stress_data",
    "pipelines.sources.tables",
    "pipelines.steps.ingest_tables",
    "pipelines.steps.validate_tables",
    "scipy.spatial.distance",
)
"""What the steps import, so that a process of theirs starts at once."""
_WRITERS, _THREADS = 2, 4
_SEGMENT_BYTES = 256 * 1024
"""Small, so that new segments are begun all the time."""
_CALL_SIZES = (1, 1, 1, 5, 20, 400)
_PAUSE_S = 0.3
"""Seconds between two kills at most."""
_FOLLOW_S = 0.01
"""Seconds between two readings."""
_WRITING_S = 0.05
"""About as long as it takes to write the files of a window."""
_WATCH_S = 0.001
_ITEMS = 20
_UNKNOWN_ITEM_SHARE = 0.02
_SENT_AGAIN_SHARE = 0.05
_MAPPING = """\
items:
  files: items.csv
  columns: {item_id: sku, title: name, price: eur}
  constants: {updated_at: "2026-01-01T00:00:00+00:00"}
events:
  files: sales.csv
  columns: {event_id: line, user_id: customer, item_id: sku, event_timestamp: at, created_timestamp: at}
  constants: {event_type: purchase}
"""
_SETTINGS: dict[str, Any] = {
    "validation": {
        "max_quarantined_share": 1,
        "drift_stop": 1,
        "null_share_stop": 1,
        "type_share_stop": 1,
        "volume_stop": 1e9,
    }
}
"""Windows are as large as the moment of the kill makes them: only rows are judged, not windows."""


@dataclass(frozen=True)
class Tally:
    """What became of the events of one case."""

    case: str
    kills: int
    acknowledged: int
    found: int
    """Acknowledged events that were found, each counted once."""
    lost: int
    doubled: int
    unacknowledged: int
    """Found, but never acknowledged: the writer was killed between the two."""

    @classmethod
    def of(cls, case: str, kills: int, acknowledged: set[str], found: Counter[str]) -> "Tally":
        """Count.

        Args:
            case: Name of the case.
            kills: Processes killed.
            acknowledged: Ids of the events whose `append` returned.
            found: How often each id was found.
        """
        kept = acknowledged & found.keys()
        return cls(
            case=case,
            kills=kills,
            acknowledged=len(acknowledged),
            found=len(kept),
            lost=len(acknowledged) - len(kept),
            doubled=sum(times > 1 for times in found.values()),
            unacknowledged=len(found) - len(kept),
        )

    @property
    def is_clean(self) -> bool:
        """Whether there was something to lose, and nothing is lost or doubled."""
        return self.acknowledged > 0 and self.lost == 0 and self.doubled == 0


def stress_data(
    *, kills: int = KILLS, seed: int = _SEED, json_file: Path | None = None, work_dir: Path | None = None
) -> list[Tally]:
    """Run both cases, print what was counted and write the records.

    Args:
        kills: Processes killed in each case.
        seed: Of the moments, the sizes of the calls and the contents.
        json_file: File for the records.
        work_dir: Where the logs and tables are made and removed again.

    Raises:
        StoreError: a process stopped by itself.
    """
    chooser = random.Random(seed)  # noqa: S311 - not for secrets
    with _fork_server() as context, tempfile.TemporaryDirectory(prefix="headrace-stress-", dir=work_dir) as folder:
        tallies = [
            kill_writers(Path(folder) / "log", kills, chooser, context),
            kill_ingestion(Path(folder), kills, chooser, context),
        ]
    records = [record for tally in tallies for record in _records(tally)]
    click.echo(records_table(records))
    if json_file:
        write_records(records, json_file)
    return tallies


def _records(tally: Tally) -> list[BenchmarkRecord]:
    metrics = ("kills", "acknowledged", "found", "lost", "doubled", "unacknowledged")
    return [
        BenchmarkRecord(
            bench=BENCH,
            data="random events",
            case=tally.case,
            metric=metric,
            value=getattr(tally, metric),
            unit="processes" if metric == "kills" else "events",
            seeds=1,
        )
        for metric in metrics
    ]


# The event log's writers


def kill_writers(folder: Path, kills: int, chooser: random.Random, context: ForkServerContext) -> Tally:
    """Append from processes that are killed, and read on with a cursor meanwhile."""
    names = (f"writer-{number}" for number in itertools.count())
    acknowledged: set[str] = set()
    follower = _Follower(EventLog(folder))
    with _quiet_log():
        writers = [_Writer(context, folder, next(names)) for _ in range(_WRITERS)]
        try:
            for _ in range(kills):
                follower.read_on_for(chooser.uniform(0, _PAUSE_S))
                place = chooser.randrange(_WRITERS)
                acknowledged |= writers[place].kill()
                writers[place] = _Writer(context, folder, next(names))
        finally:
            for writer in writers:
                acknowledged |= writer.kill()
        follower.read_on()
        again = _Follower(EventLog(folder))
        again.read_on()
    tally = Tally.of("event log", kills, acknowledged, follower.found)
    if tally.is_clean and again.found != follower.found:
        raise StoreError(f"The log {folder} read at once differs from what was read on with the cursor.")
    return tally


class _Writer:
    """A process that appends until it is killed."""

    def __init__(self, context: ForkServerContext, folder: Path, name: str) -> None:
        self._receiver, sender = context.Pipe(duplex=False)
        self._lines: list[bytes] = []
        self._process = context.Process(target=_append_until_killed, args=(folder, name, sender), daemon=True)
        self._process.start()
        sender.close()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def kill(self) -> set[str]:
        """Kill the process and return the ids of the events that were acknowledged to it."""
        if not _kill(self._process):
            raise StoreError(f"A writer stopped by itself with exit code {self._process.exitcode}: see above why.")
        self._listener.join()
        self._receiver.close()
        calls = [line.split() for line in b"".join(self._lines).decode().splitlines()]
        return {event_id for call, size in calls for event_id in _ids(call, int(size))}

    def _listen(self) -> None:
        while data := os.read(self._receiver.fileno(), 1 << 16):
            self._lines.append(data)


def _append_until_killed(folder: Path, name: str, acknowledged: Connection) -> None:
    log = EventLog(folder, segment_bytes=_SEGMENT_BYTES)

    def append(thread: int) -> None:
        chooser = random.Random(f"{name}/{thread}")  # noqa: S311 - not for secrets
        for number in itertools.count():
            call, size = f"{name}.{thread}.{number}", chooser.choice(_CALL_SIZES)
            log.append([_event(event_id, chooser) for event_id in _ids(call, size)])
            os.write(acknowledged.fileno(), f"{call} {size}\n".encode())  # short enough to be whole or not there
            time.sleep(chooser.uniform(0, 0.01))

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclass
class _Follower:
    """Reads a log with a cursor and counts every event."""

    log: EventLog
    cursor: dict[str, Any] | None = None
    found: Counter[str] = field(default_factory=Counter)

    def read_on_for(self, seconds: float) -> None:
        """Read on again and again, while writers write."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read_on()
            time.sleep(min(_FOLLOW_S, max(0, end - time.monotonic())))

    def read_on(self) -> None:
        """Read what has come since the last time."""
        batches, cursor = self.log.read_from(self.cursor, datetime.now(UTC))
        for batch in batches:
            self.found.update(batch["event_id"].to_pylist())
        self.cursor = json.loads(json.dumps(cursor))


# Ingestion


def kill_ingestion(folder: Path, kills: int, chooser: random.Random, context: ForkServerContext) -> Tally:
    """Ingest and validate while events arrive, killed at random moments; then once in peace.

    One kill in three falls anywhere, one while a window is written, one while it becomes part of the tables.
    """
    places = Places(folder / "home")
    environment = _shop(folder / "shop", places)
    ingestion = _Ingestion(context, environment, folder / "steps.log")
    ingestion.run()
    killed = 0
    with _arriving(EventLog(places.event_log), chooser.random()) as acknowledged:
        whole_s = max(ingestion.run(), 0.1)
        while killed < kills:
            watched = chooser.choice((None, places.ingested, places.tables / "events"))
            if watched:
                is_time = _after_change(watched, chooser.uniform(0, _WRITING_S))
            else:
                is_time = _after(chooser.uniform(0, 1.1 * whole_s))
            killed += ingestion.run_until(is_time)
    ingestion.run()
    return Tally.of("ingestion", killed, set(acknowledged), _in_tables(places))


class _Ingestion:
    """Runs both steps in a process of its own, what they print in a file."""

    def __init__(self, context: ForkServerContext, environment: dict[str, str], output: Path) -> None:
        self._context = context
        self._environment = environment
        self._output = output

    def run(self) -> float:
        """Run to the end and return the seconds."""
        started = time.monotonic()
        self._finished(self._started())
        return time.monotonic() - started

    def run_until(self, is_time: Callable[[], bool]) -> bool:
        """Run, and kill it when it is time; return whether it still ran then."""
        process = self._started()
        while process.is_alive():
            if is_time() and _kill(process):
                return True
            time.sleep(_WATCH_S)
        self._finished(process)
        return False

    def _started(self) -> Any:
        process = self._context.Process(target=_ingest, args=(self._environment, self._output), daemon=True)
        process.start()
        return process

    def _finished(self, process: Any) -> None:
        process.join()
        if process.exitcode:
            lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines()
            raise StoreError(f"Ingestion stopped by itself with exit code {process.exitcode}: {' '.join(lines[-3:])}")


def _after(seconds: float) -> Callable[[], bool]:
    """Return a question that is true so many seconds from now."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() >= moment


def _after_change(folder: Path, seconds: float) -> Callable[[], bool]:
    """Return a question that is true so many seconds after something was made, renamed or removed in the folder."""
    before = folder.stat().st_mtime_ns
    moments: list[float] = []

    def is_time() -> bool:
        if not moments and folder.stat().st_mtime_ns != before:
            moments.append(time.monotonic() + seconds)
        return bool(moments) and time.monotonic() >= moments[0]

    return is_time


def _ingest(environment: dict[str, str], output: Path) -> None:
    from pipelines.wiring import run_step

    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for variable in [name for name in os.environ if name.startswith("HEADRACE_")]:
        del os.environ[variable]
    os.environ.update(environment)
    run_step("ingest_tables")
    run_step("validate_tables")


def _shop(folder: Path, places: Places) -> dict[str, str]:
    """Write a small shop and its settings; return the environment that names them."""
    import yaml

    folder.mkdir()
    items = [f"item-{number},Thing {number},{number + 1}" for number in range(_ITEMS)]
    (folder / "items.csv").write_text("\n".join(["sku,name,eur", *items]) + "\n", encoding="utf-8")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    times = [(yesterday + timedelta(minutes=number)).isoformat() for number in range(50)]
    sales = [f"sale-{number},customer {number % 7},item-{number % _ITEMS},{at}" for number, at in enumerate(times)]
    (folder / "sales.csv").write_text("\n".join(["line,customer,sku,at", *sales]) + "\n", encoding="utf-8")
    (folder / "mapping.yaml").write_text(_MAPPING, encoding="utf-8")
    settings = {**_SETTINGS, "source": {"kind": "tables", "mapping": str(folder / "mapping.yaml")}}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return {HOME_VARIABLE: str(places.home), "HEADRACE_CONFIG": str(folder / "settings.yaml")}


@contextmanager
def _arriving(log: EventLog, seed: float) -> Iterator[set[str]]:
    """Let events arrive while the block runs; give the ids of those that were acknowledged so far.

    Some are about items that nobody knows (they belong into quarantine), and some calls come twice, as from a client
    that saw no answer.
    """
    chooser = random.Random(seed)  # noqa: S311 - not for secrets
    acknowledged: set[str] = set()
    is_over = threading.Event()

    def arrive() -> None:
        for number in itertools.count():
            ids = _ids(f"click-{number}", chooser.randint(1, 10))
            events = [_event(event_id, chooser) for event_id in ids]
            for _ in range(2 if chooser.random() < _SENT_AGAIN_SHARE else 1):
                log.append(events)
                acknowledged.update(ids)
            if is_over.wait(chooser.uniform(0, 0.05)):
                return

    thread = threading.Thread(target=arrive, daemon=True)
    thread.start()
    try:
        yield acknowledged
    finally:
        is_over.set()
        thread.join()


def _in_tables(places: Places) -> Counter[str]:
    """Return how often each event that arrived is in the tables or in quarantine."""
    from pipelines.stores.sql import quoted
    from pipelines.stores.table_store import TableStore

    tables = TableStore(places.tables, quarantine=places.quarantine, ingested=places.ingested)
    queries = ["SELECT event_id FROM events"]
    queries += [
        f"SELECT DISTINCT event_id FROM read_parquet({quoted(file)})" for file in tables.quarantine_files("events")
    ]
    with tables.connect() as connection:
        rows = connection.execute(
            f"SELECT event_id, count(*) FROM ({' UNION ALL '.join(queries)}) WHERE event_id LIKE 'click-%' GROUP BY 1"
        ).fetchall()
    return Counter(dict(rows))


# Both


@contextmanager
def _fork_server() -> Iterator[ForkServerContext]:
    """Give processes that start within milliseconds: everything is imported once, in the process they fork from."""
    from pipelines.wiring import QUIET

    # A killed process cannot give its semaphores back: that is no news here.
    added = {**QUIET, "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
    before = dict(os.environ)
    os.environ.update(added)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    try:
        yield context
    finally:
        for variable in added:
            os.environ.pop(variable)
            if variable in before:
                os.environ[variable] = before[variable]


def _ids(call: str, size: int) -> Sequence[str]:
    return [f"{call}.{number}" for number in range(size)]


def _event(event_id: str, chooser: random.Random) -> dict[str, Any]:
    is_unknown = chooser.random() < _UNKNOWN_ITEM_SHARE
    return {
        "event_id": event_id,
        "user_id": f"{chooser.getrandbits(128):032x}",
        "event_type": chooser.choice(("view", "cart", "purchase")),
        "item_id": "unknown" if is_unknown else f"item-{chooser.randrange(_ITEMS)}",
        "event_timestamp": datetime.now(UTC),
    }


def _kill(process: Any) -> bool:
    """Kill a process; return whether it still ran."""
    process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Leave out the log's warnings about what a kill tore: they are expected here."""
    logger = logging.getLogger("pipelines.stores.event_log")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
