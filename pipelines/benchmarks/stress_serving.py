"""More requests than the service can answer, and clients that behave badly, while others are served.

    burst          half of the measured capacity, then ten times that for some seconds, then half again: what is
                   accepted is answered in bounded time, the rest is refused at once with 503 and Retry-After, and a
                   second after the burst everything is as before
    slow clients   one byte a second, in the head or in the body, until they are cut off
    half open      connected and silent, or half a request and then nothing until they are cut off
    gone           a request, and no one there for the answer
    huge bodies    20 MiB, and a length of a terabyte
    idle           10,000 connections that ask nothing

While they are there, requests arrive at a quarter of the capacity (60 a second at most), and none may fail.
"""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipelines.benchmarks import hostile_clients
from pipelines.benchmarks.http_load import Answer, Counting, closed_loop, open_loop, poisson_times
from pipelines.benchmarks.mixed_load import Entry, Ledger, Mix, Sender, mixed_load
from pipelines.benchmarks.process_accounts import memory, open_files
from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.benchmarks.service_runs import ServiceRun
from pipelines.benchmarks.serving_traffic import for_seconds
from pipelines.benchmarks.shop_home import ShopHome, shop_mix

BENCH = "stress-serving"
TIMES = 10
"""How many times the load before it a burst is."""
MAX_ACCEPTED_MS = 1_000.0
"""99th percentile of what is accepted in a burst."""
MAX_REFUSED_MS = 250.0
"""99th percentile of the time until a refusal."""
RECOVERY_S = 1.0
MIN_KEPT_SHARE = 0.5
"""Of its capacity that the service still answers in a burst."""
MAX_GROWTH_MIB = 64.0
"""Memory of the worker, from before the bad clients until after them."""
IDLE = 10_000
_ITEMS, _USERS, _WORDS, _SALES, _DIM, _SEED = 5_000, 300, 4_000, 4_000, 384, 13
_CLIENTS = 8
_STEADY_RATE = 60.0
_FILES_BACK = 50
_SLOW, _HALF_OPEN = 200, 400
_CUT_OFF_S = 13.0
"""A request that is not whole after 10 s is cut off by the next look, one a second."""
_MIX: dict[str, Any] = {"event_share": 0.05, "seed": _SEED}


@dataclass(frozen=True)
class Burst:
    """When which load ran, seconds from the start, and what became of the requests."""

    began_s: float
    ended_s: float
    capacity: float
    """Answers a second that were measured before."""
    entries: list[Entry]
    """Times from the start."""

    @property
    def before(self) -> Ledger:
        """What was due before it."""
        return Ledger(self.entries).between(0, self.began_s)

    @property
    def during(self) -> Ledger:
        """What was due in it."""
        return Ledger(self.entries).between(self.began_s, self.ended_s)

    @property
    def recovered(self) -> Ledger:
        """What was due when the time to recover was over."""
        return Ledger(self.entries).between(self.ended_s + RECOVERY_S, float("inf"))

    @property
    def refused_ms(self) -> list[float]:
        """How long the refusals of the burst took."""
        return [one.latency_ms for one in self.during.entries if one.is_refused]

    @property
    def accepted_rate(self) -> float:
        """Good answers a second that came while the burst lasted."""
        good = sum(not one.problem and self.began_s <= one.done_s < self.ended_s for one in self.entries)
        return good / (self.ended_s - self.began_s)

    @property
    def problems(self) -> list[str]:
        """What must not be, in sentences."""
        found = []
        for name, ledger in (("before the burst", self.before), ("a second after the burst", self.recovered)):
            if ledger.failures or not ledger.entries:
                found.append(
                    f"{name}: {len(ledger.failures)} of {len(ledger.entries)} requests failed "
                    f"({ledger.described_failures()})"
                )
        if wrong := [one for one in self.during.failures if not one.is_refused]:
            found.append(
                f"burst: {len(wrong)} requests were neither answered nor refused ({Ledger(wrong).described_failures()})"
            )
        accepted_ms = self.during.percentile_ms(99)
        if not accepted_ms <= MAX_ACCEPTED_MS:
            found.append(f"burst: the 99th percentile of what was accepted is {accepted_ms:.0f} ms")
        if self.refused_ms and (refused_ms := float(np.percentile(self.refused_ms, 99))) > MAX_REFUSED_MS:
            found.append(f"burst: the 99th percentile of the refusals is {refused_ms:.0f} ms")
        if self.accepted_rate < MIN_KEPT_SHARE * self.capacity:
            found.append(
                f"burst: {self.accepted_rate:.0f} requests a second were answered, {self.capacity:.0f} before it"
            )
        recovered_ms = self.recovered.percentile_ms(99)
        if not recovered_ms <= MAX_ACCEPTED_MS:
            found.append(f"a second after the burst: the 99th percentile is {recovered_ms:.0f} ms")
        return found


@dataclass
class Outcome:
    """What was counted."""

    burst: Burst | None = None
    cases: dict[str, Ledger] = field(default_factory=dict)
    """What became of the requests of others, by how the bad clients behaved."""
    notes: dict[str, str] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    """Unfinished requests that were not cut off in time, by how the bad clients behaved."""
    growth_mib: float = 0.0
    files_left: int = 0
    """Connections that are still open in the worker when all bad clients have gone."""

    @property
    def problems(self) -> list[str]:
        """What must not be, in sentences."""
        found = self.burst.problems if self.burst is not None else []
        for case, ledger in self.cases.items():
            if ledger.failures or not ledger.entries:
                found.append(
                    f"{case}: {len(ledger.failures)} of {len(ledger.entries)} requests of others failed "
                    f"({ledger.described_failures()})"
                )
        for case, kept in self.kept.items():
            if kept > 0:
                found.append(f"{case}: {kept} unfinished requests were still waited for after {_CUT_OFF_S:g} s")
        if self.growth_mib > MAX_GROWTH_MIB:
            found.append(f"memory grew by {self.growth_mib:.0f} MiB, {MAX_GROWTH_MIB:g} are allowed")
        if self.files_left > _FILES_BACK:
            found.append(f"{self.files_left} connections stayed open in the service")
        return found

    def records(self, data: str) -> Iterator[BenchmarkRecord]:
        """Yield the records."""
        if (burst := self.burst) is not None:
            yield _record(data, "capacity", "rps", burst.capacity, "1/s")
            for case, ledger in (
                ("before", burst.before),
                ("burst", burst.during),
                ("after a second", burst.recovered),
            ):
                yield from _ledger_records(data, case, ledger)
            yield _record(data, "burst", "accepted_rps", burst.accepted_rate, "1/s")
            if burst.refused_ms:
                yield _record(data, "burst", "refused_p99_ms", float(np.percentile(burst.refused_ms, 99)), "ms")
        for case, ledger in self.cases.items():
            yield from _ledger_records(data, case, ledger)
        yield _record(data, "worker", "growth_mib", self.growth_mib, "MiB")
        yield _record(data, "worker", "connections_left", self.files_left, "connections")


def stress_serving(
    *, idle: int = IDLE, scale: float = 1.0, json_file: Path | None = None, work_dir: Path | None = None
) -> Outcome:
    """Run the burst and the bad clients, print what was counted and write the records.

    Args:
        idle: Connections that ask nothing.
        scale: Multiplies the lengths of all parts.
        json_file: File for the records.
        work_dir: Where the home is made and removed again.

    Raises:
        StoreError: a step of the preparation failed, or the service did not start.
    """
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="headrace-stress-", dir=work_dir) as name:
        home = ShopHome(Path(name))
        shop = home.prepare(items=_ITEMS, users=_USERS, words=_WORDS, sales=_SALES, seed=_SEED)
        home.write_bundle(shop, "only", dim=_DIM, seed=0)
        home.point_to("only")
        with ServiceRun(home.places, home.environment) as service:
            service.start()
            outcome.burst = measure_burst(shop_mix(shop, service.port, 1.0, **_MIX), scale)
            rate = min(_STEADY_RATE, outcome.burst.capacity / 4)
            _bad_clients(outcome, service, shop_mix(shop, service.port, rate, **_MIX), idle, scale)
    data = f"{_ITEMS:,} made-up items"
    records = list(outcome.records(data))
    click.echo(records_table(records))
    for case, note in outcome.notes.items():
        click.echo(f"{case}: {note}")
    if json_file is not None:
        write_records(records, json_file)
    return outcome


def measure_burst(mix: Mix, scale: float) -> Burst:
    """Measure the capacity; then send half of it, ten times that, and half of it again."""
    capacity = _capacity(mix, 2 * scale)
    calm = capacity / 2
    began_s, ended_s, over_s = 3 * scale, 6 * scale, 6 * scale + RECOVERY_S + 3 * scale
    times = np.sort(
        np.concatenate(
            [poisson_times(calm, over_s, 1), began_s + poisson_times((TIMES - 1) * calm, ended_s - began_s, 2)]
        )
    )
    sender = Sender(mix)
    start = time.perf_counter()
    open_loop(
        mix.port,
        lambda index: sender.next_request(index) if index < len(times) else None,
        sender.answered,
        iter(times.tolist()),
        connections=2_000,
    )
    return Burst(began_s, ended_s, capacity, [_from(start, one) for one in sender.entries])


def _from(start_s: float, entry: Entry) -> Entry:
    return replace(entry, due_s=entry.due_s - start_s, done_s=entry.done_s - start_s)


def _capacity(mix: Mix, seconds: float) -> float:
    sender, counting = Sender(mix), Counting()

    def answered(answer: Answer) -> None:
        sender.answered(answer)
        counting(answer)

    took = closed_loop(mix.port, for_seconds(seconds, sender.next_request), answered, clients=_CLIENTS)
    return counting.tally(took).rate


def _bad_clients(outcome: Outcome, service: ServiceRun, mix: Mix, idle: int, scale: float) -> None:
    port, worker = service.port, service.workers[0]
    allowed = hostile_clients.most_idle(idle, *service.process_ids)
    if allowed < idle:
        outcome.notes["idle"] = f"{allowed:,} connections only: the limit of open files allows no more"

    unfinished_s = _CUT_OFF_S * scale

    def cut_off(case: str, opened: int, unfinished: int, cut: int) -> str:
        if unfinished_s >= _CUT_OFF_S:
            outcome.kept[case] = unfinished - cut
        return f"{cut} of {opened} were cut off within {unfinished_s:g} s"

    def slow() -> str:
        return cut_off("slow clients", _SLOW, _SLOW, hostile_clients.slow_clients(port, _SLOW, unfinished_s))

    def half() -> str:
        cut = hostile_clients.half_open(port, _HALF_OPEN, unfinished_s)
        return cut_off("half open", _HALF_OPEN, _HALF_OPEN // 2, cut)

    def gone() -> str:
        hostile_clients.gone_clients(port, mix.rate / 2, 4 * scale)
        return f"{mix.rate / 2:.0f} a second"

    def huge() -> str:
        answers = hostile_clients.huge_bodies(port, 10)
        return ", ".join(f"{len(list(group))} x {answer}" for answer, group in itertools.groupby(sorted(answers)))

    def many() -> str:
        with hostile_clients.crowd(port, allowed):
            held = open_files(worker)
            time.sleep(6 * scale)
        return f"{allowed:,} connections, {held:,} open in the service"

    before_mib, before_files = memory(worker).uss, open_files(worker)
    with _files_for(allowed):
        for case, behave in {
            "slow clients": slow,
            "half open": half,
            "gone": gone,
            "huge bodies": huge,
            "idle": many,
        }.items():
            with mixed_load(mix) as running:
                note = behave()
                time.sleep(scale)
                outcome.cases[case] = running.stop()
            outcome.notes[case] = "; ".join(filter(None, (outcome.notes.get(case), note)))
            click.echo(f"{case}: {note}", err=True)
    time.sleep(2)
    outcome.growth_mib = memory(worker).uss - before_mib
    outcome.files_left = open_files(worker) - before_files


@contextlib.contextmanager
def _files_for(connections: int) -> Iterator[None]:
    """Let this process hold so many connections while the block runs."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(before[0], connections + 300)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _ledger_records(data: str, case: str, ledger: Ledger) -> Iterator[BenchmarkRecord]:
    yield _record(data, case, "requests", len(ledger.entries), "requests")
    yield _record(data, case, "refused", sum(one.is_refused for one in ledger.entries), "requests")
    yield _record(data, case, "failures", sum(not one.is_refused for one in ledger.failures), "requests")
    for share in (50, 99):
        if (value := ledger.percentile_ms(share)) == value:
            yield _record(data, case, f"p{share}_ms", value, "ms")


def _record(data: str, case: str, metric: str, value: float, unit: str) -> BenchmarkRecord:
    return BenchmarkRecord(bench=BENCH, data=data, case=case, metric=metric, value=float(value), unit=unit, seeds=1)
