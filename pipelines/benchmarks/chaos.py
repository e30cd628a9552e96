"""Load runs while what the service stands on is stopped, killed, corrupted, filled up and set wrong.

The service answers from a made-up shop with Redis as its online store, all started here. Searches, recommendations and
events arrive all the time (Poisson, latency from when a request was due), phase after phase:

    redis stopped, hangs     the online store is ended and started again; is there, but answers nothing
    bundles swapped          the pointer moves between two bundles every two seconds
    bundle corrupted         the pointer names a bundle with a flipped byte: the old one has to go on
    worker killed            kill -9 of the process that answers; what started it has to start another
    service killed           kill -9 of everything, and a new start
    event log disk full      no file of the service may grow (RLIMIT_FSIZE): events are refused with 503 and Retry-After
    clock ahead, behind      the service's clock jumps an hour ahead, then an hour back

A request fails that gets no good answer within two seconds. Failures are allowed inside a kill window, which lasts from
the kill until the service is ready again, and as the refusals of events while the disk is full. An event is lost that
was answered with 202 and is not in the event log afterwards, read with the log's own reader. Some events are the only
one of a user of their own: these users have to be known at the end.
"""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson

from pipelines.benchmarks.faked_clock import FakedClock, compiler
from pipelines.benchmarks.http_load import Answer, closed_loop, http_request
from pipelines.benchmarks.mixed_load import Entry, Ledger, mixed_load
from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.benchmarks.redis_process import RedisProcess, redis_executable
from pipelines.benchmarks.service_runs import ServiceRun
from pipelines.benchmarks.serving_traffic import ask
from pipelines.benchmarks.shop_home import ShopHome, shop_mix
from pipelines.errors import StoreError
from pipelines.stores.event_log import EventLog
from pipelines.stores.feast_settings import ONLINE_STORE_VARIABLE

BENCH = "chaos"
RATE = 60.0
"""Requests a second."""
TIMEOUT_S = 2.0
"""A request that takes longer has failed."""
_ITEMS, _USERS, _WORDS, _SALES, _DIM, _SEED = 5_000, 300, 4_000, 4_000, 384, 13
_BUNDLES = ("first", "second")
_BROKEN = "broken"
_SWAP_S, _MOST_SWAP_S = 2.0, 10.0
"""How long a bundle answers before the next one is named, and how long it may take until it does."""
_GRACE_S = 15.0
"""How long after the load the online history may still be catching up."""
_JUMP_S = 3_600.0
_POLL_S = 0.02
_CHECKED_USERS = 2_000


@dataclass
class Phase:
    """A span of time with its own trouble."""

    name: str
    began_s: float
    ended_s: float = float("inf")
    kill_windows: list[tuple[float, float]] = field(default_factory=list)
    events_may_be_refused: bool = False
    swaps_s: list[float] = field(default_factory=list)
    """From naming a bundle until it answers."""


@dataclass
class Outcome:
    """What was counted."""

    phases: list[Phase] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    found: Counter[str] = field(default_factory=Counter)
    """How often each event id is in the log."""
    checked_users: int = 0
    strangers: set[str] = field(default_factory=set)
    """Users whose only event was acknowledged and whom the service does not know."""
    wrong: list[str] = field(default_factory=list)
    """Sentences about what did not happen that should have."""
    skipped: list[str] = field(default_factory=list)

    def of(self, phase: Phase) -> Ledger:
        """Return what was due in a phase."""
        return self.ledger.between(phase.began_s, phase.ended_s)

    def failures(self, phase: Phase) -> list[Entry]:
        """Return the failures of a phase that nothing excuses."""
        windows = [window for one in self.phases for window in one.kill_windows]
        return [one for one in self.of(phase).outside(windows).failures if not _is_excused(one, phase)]

    def lost(self, phase: Phase) -> set[str]:
        """Return the events that were acknowledged in a phase and are not in the log."""
        return self.of(phase).acknowledged - self.found.keys()

    @property
    def problems(self) -> list[str]:
        """What must not be, in sentences."""
        problems = list(self.wrong)
        for phase in self.phases:
            if failed := self.failures(phase):
                problems.append(f"{phase.name}: {len(failed)} requests failed ({Ledger(failed).described_failures()})")
            if lost := self.lost(phase):
                problems.append(f"{phase.name}: {len(lost)} acknowledged events are not in the log")
        if doubled := sum(times > 1 for times in self.found.values()):
            problems.append(f"{doubled} events are in the log more than once")
        if self.strangers:
            where = {phase.name: len(self.strangers.intersection(self.of(phase).once_users)) for phase in self.phases}
            problems.append(
                f"{len(self.strangers)} of {self.checked_users} users whose only event was acknowledged are strangers ("
                + ", ".join(f"{count} of {name!r}" for name, count in where.items() if count)
                + ")"
            )
        if not self.ledger.acknowledged:
            problems.append("no event was acknowledged: there was nothing to lose")
        return problems

    def records(self, data: str) -> Iterator[BenchmarkRecord]:
        """Yield the records: one case a phase."""
        for phase in self.phases:
            ledger = self.of(phase)
            yield from _phase_records(data, phase, ledger, len(self.failures(phase)), len(self.lost(phase)))
        values = (
            ("requests", len(self.ledger.entries)),
            ("failures", sum(len(self.failures(phase)) for phase in self.phases)),
            ("lost_events", sum(len(self.lost(phase)) for phase in self.phases)),
            ("unknown_users", len(self.strangers)),
        )
        for metric, value in values:
            yield _record(data, "all phases", metric, value, "users" if metric == "unknown_users" else "requests")


def chaos(
    *, rate: float = RATE, scale: float = 1.0, json_file: Path | None = None, work_dir: Path | None = None
) -> Outcome:
    """Run all phases, print what was counted and write the records.

    Args:
        rate: Requests a second.
        scale: Multiplies the lengths of the phases.
        json_file: File for the records.
        work_dir: Where the home is made and removed again.

    Raises:
        StoreError: a step of the preparation failed, or the service did not start.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-chaos-", dir=work_dir) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        redis = _redis(folder, stack)
        clock = _clock(folder)
        environment = {
            **({ONLINE_STORE_VARIABLE: redis.address} if redis else {}),
            **(clock.environment if clock else {}),
        }
        home = ShopHome(folder, environment={ONLINE_STORE_VARIABLE: redis.address} if redis else {})
        shop = home.prepare(items=_ITEMS, users=_USERS, words=_WORDS, sales=_SALES, seed=_SEED)
        for seed, bundle in enumerate((*_BUNDLES, _BROKEN)):
            home.write_bundle(shop, bundle, dim=_DIM, seed=seed)
        _flip_a_byte(home.places.bundles / _BROKEN / "item_vectors.npy")
        home.point_to(_BUNDLES[0])
        service = stack.enter_context(ServiceRun(home.places, {**home.environment, **environment}))
        service.start()
        troubles = _Troubles(home, service, redis, clock, scale)
        mix = shop_mix(shop, service.port, rate, event_share=0.3, once_share=0.5, timeout_s=TIMEOUT_S, seed=_SEED)
        with mixed_load(mix) as running:
            troubles.run()
            troubles.outcome.ledger = running.stop()
        outcome = troubles.outcome
        _look_for_events(outcome, home, service.port)
    data = f"{_ITEMS:,} made-up items, {rate:g} requests/s, {'Redis' if redis else 'SQLite'}"
    records = list(outcome.records(data))
    click.echo(records_table(records))
    for sentence in outcome.skipped:
        click.echo(sentence)
    if json_file is not None:
        write_records(records, json_file)
    return outcome


class _Troubles:
    """Makes trouble, one phase after the other."""

    def __init__(
        self, home: ShopHome, service: ServiceRun, redis: RedisProcess | None, clock: FakedClock | None, scale: float
    ) -> None:
        self._home = home
        self._service = service
        self._redis = redis
        self._clock = clock
        self._scale = scale
        self.outcome = Outcome()

    def run(self) -> None:
        with self._phase("quiet"):
            self._sleep(6)
        if self._redis is None:
            self.outcome.skipped.append("Redis was not stopped: there is no `redis-server` on PATH.")
        else:
            self._stop_redis(self._redis)
        self._swap_bundles()
        self._name_a_broken_bundle()
        self._kill_the_worker()
        self._kill_the_service()
        self._fill_the_disk()
        if self._clock is None:
            self.outcome.skipped.append("The clock did not jump: there is no C compiler (`cc`) on PATH.")
        else:
            self._set_the_clock(self._clock)

    def _stop_redis(self, redis: RedisProcess) -> None:
        with self._phase("redis stopped"):
            redis.stop()
            self._sleep(8)
        with self._phase("redis back"):
            redis.start()
            self._sleep(6)
        with self._phase("redis hangs"):
            redis.hang()
            self._sleep(6)
        with self._phase("redis goes on"):
            redis.go_on()
            self._sleep(6)

    def _swap_bundles(self) -> None:
        with self._phase("bundles swapped") as phase:
            for number in range(5):
                self._move_to(_BUNDLES[(number + 1) % 2], phase)

    def _name_a_broken_bundle(self) -> None:
        with self._phase("bundle corrupted") as phase:
            self._home.point_to(_BROKEN)
            self._sleep(5)
            if (answers := self._version()) != _BUNDLES[1]:
                self.outcome.wrong.append(f"after a corrupted bundle was named, {answers} answers, not {_BUNDLES[1]}")
            self._move_to(_BUNDLES[0], phase)

    def _kill_the_worker(self) -> None:
        with self._phase("worker killed") as phase, self._window(phase):
            worker = self._service.workers[0]
            os.kill(worker, signal.SIGKILL)
            _wait(lambda: worker not in self._service.workers, "the killed worker is still there")
            self._service.await_ready()
        with self._phase("after the worker"):
            self._sleep(4)

    def _kill_the_service(self) -> None:
        with self._phase("service killed") as phase, self._window(phase):
            self._service.kill()
            self._service.start()
        with self._phase("after the service"):
            self._sleep(4)

    def _fill_the_disk(self) -> None:
        with self._phase("event log disk full") as phase:
            phase.events_may_be_refused = True
            with _no_file_may_grow(self._service.process_ids):
                self._sleep(5)
        with self._phase("disk has room"):
            self._sleep(4)

    def _set_the_clock(self, clock: FakedClock) -> None:
        for name, offset_s in (("clock ahead", _JUMP_S), ("clock behind", -_JUMP_S), ("clock right", 0.0)):
            with self._phase(name):
                clock.jump_to(offset_s)
                self._sleep(5)

    def _move_to(self, bundle: str, phase: Phase) -> None:
        """Point to a bundle, wait until it answers, and leave it there for a while."""
        self._home.point_to(bundle)
        began = time.perf_counter()
        while (answers := self._version()) != bundle:
            if time.perf_counter() - began > _MOST_SWAP_S:
                self.outcome.wrong.append(f"{answers} answers {_MOST_SWAP_S:g} s after the pointer named {bundle}")
                return
            time.sleep(_POLL_S)
        phase.swaps_s.append(time.perf_counter() - began)
        self._sleep(_SWAP_S)

    def _version(self) -> str:
        """Return the bundle that answers; where this one question is refused, it is asked again."""
        deadline = time.monotonic() + _MOST_SWAP_S
        while True:
            try:
                return str(ask(self._service.port, "recommend", {"user_id": "somebody"})["model_version"])
            except StoreError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[Phase]:
        phase = Phase(name, time.perf_counter())
        self.outcome.phases.append(phase)
        yield phase
        phase.ended_s = time.perf_counter()
        click.echo(f"{name}: {phase.ended_s - phase.began_s:.1f} s", err=True)

    @contextlib.contextmanager
    def _window(self, phase: Phase) -> Iterator[None]:
        began = time.perf_counter()
        yield
        phase.kill_windows.append((began, time.perf_counter()))

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds * self._scale)


def _is_excused(entry: Entry, phase: Phase) -> bool:
    return phase.events_may_be_refused and entry.call == "events" and entry.is_refused


def _redis(folder: Path, stack: contextlib.ExitStack) -> RedisProcess | None:
    executable = redis_executable()
    return stack.enter_context(RedisProcess(executable, folder / "redis")) if executable else None


def _clock(folder: Path) -> FakedClock | None:
    found = compiler()
    return FakedClock(found, folder / "clock") if found and sys.platform == "linux" else None


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(content)


@contextlib.contextmanager
def _no_file_may_grow(process_ids: Sequence[int]) -> Iterator[None]:
    """Have every write of these processes to a file fail while the block runs, as on a full disk."""
    before = {one: resource.prlimit(one, resource.RLIMIT_FSIZE) for one in process_ids}
    for one, (_, hard) in before.items():
        resource.prlimit(one, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for one, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(one, resource.RLIMIT_FSIZE, limits)


def _wait(is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > deadline:
            raise StoreError(otherwise)
        time.sleep(_POLL_S)


def _look_for_events(outcome: Outcome, home: ShopHome, port: int) -> None:
    """Read the event log with its own reader, and ask for the users whose only event was acknowledged."""
    read = EventLog(home.places.event_log).read_from(None, datetime.now(UTC))
    for batch in read.batches:
        outcome.found.update(batch["event_id"].to_pylist())
    users = outcome.ledger.once_users
    step = max(1, len(users) // _CHECKED_USERS)
    left = users[::step]
    outcome.checked_users = len(left)
    deadline = time.monotonic() + _GRACE_S
    while left:
        left = _strangers(port, left)
        if time.monotonic() > deadline:
            break
        time.sleep(0.5 if left else 0)
    outcome.strangers = set(left)


def _strangers(port: int, users: Sequence[str]) -> list[str]:
    """Return those of the users whom the service does not know."""
    found: list[str] = []

    def look(answer: Answer) -> None:
        if not answer.is_ok or not orjson.loads(answer.body)["personalized"]:
            found.append(users[answer.index])

    closed_loop(
        port,
        lambda index: http_request("recommend", {"user_id": users[index]}) if index < len(users) else None,
        look,
        clients=4,
    )
    return found


def _phase_records(data: str, phase: Phase, ledger: Ledger, failures: int, lost: int) -> Iterator[BenchmarkRecord]:
    values: list[tuple[str, float, str]] = [
        ("requests", len(ledger.entries), "requests"),
        ("failures", failures, "requests"),
        ("excused", len(ledger.failures) - failures, "requests"),
        ("degraded", sum(ledger.degraded.values()), "requests"),
        ("lost_events", lost, "events"),
        ("p50_ms", ledger.percentile_ms(50), "ms"),
        ("p99_ms", ledger.percentile_ms(99), "ms"),
    ]
    if phase.kill_windows:
        values.append(("window_s", sum(ended - began for began, ended in phase.kill_windows), "s"))
    if phase.swaps_s:
        values.append(("swap_s", max(phase.swaps_s), "s"))
    for metric, value, unit in values:
        if value == value:  # a phase in which nothing was answered has no percentile
            yield _record(data, phase.name, metric, value, unit)


def _record(data: str, case: str, metric: str, value: float, unit: str) -> BenchmarkRecord:
    return BenchmarkRecord(bench=BENCH, data=data, case=case, metric=metric, value=float(value), unit=unit, seeds=1)
