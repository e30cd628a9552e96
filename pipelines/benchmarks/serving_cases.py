"""How one kind of request to the service is measured: one client, as many as it can answer, and half of that."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import click
import numpy as np
import orjson

from pipelines.benchmarks.http_load import (
    Answer,
    Counting,
    Tally,
    closed_loop,
    http_request,
    open_loop,
    poisson_times,
)
from pipelines.benchmarks.process_accounts import cpu_s
from pipelines.benchmarks.records import BenchmarkRecord
from pipelines.benchmarks.service_runs import ServiceRun
from pipelines.benchmarks.serving_traffic import FIRST_VISITS, Traffic, for_seconds, require_personal
from pipelines.benchmarks.trivial_server import trivial_server
from pipelines.errors import StoreError

BENCH = "serving"
FIRST, EVENT = "recommend right after an event", "one event"
CLIENTS = 8
"""Connections that ask for as much as can be answered."""
_CHECKED = 16
"""One in so many answers is looked into."""
_RENEWED = 100
"""Users who had an event before each round of one client."""
Make = Callable[[int], bytes | None]


@dataclass(frozen=True)
class Durations:
    """How long each part is measured, seconds."""

    warm_s: float = 0.3
    round_s: float = 1.2
    rounds: int = 3
    capacity_s: float = 2.5
    half_warm_s: float = 1.5
    """The beginning of the open loop, in which its connections are made, is not counted."""
    half_s: float = 6.0
    half_answers: int = 3_000
    """The open loop lasts until so many were due: of fewer, one crowd decides the 99th percentile."""
    half_most_s: float = 20.0
    """But no longer than that."""
    generator_s: float = 0.7

    def open_s(self, rate: float) -> float:
        """Return how long the open loop lasts at so many requests a second."""
        return self.half_warm_s + max(self.half_s, min(self.half_most_s, self.half_answers / rate))


@dataclass(frozen=True)
class Saturated:
    """As many requests as could be answered."""

    tally: Tally
    service_cpu_s: float | None
    """Processor time of the service; None where the system does not tell."""
    generator_cpu_s: float

    def costs(self, data: str, case: str) -> Iterator[BenchmarkRecord]:
        """Yield what a request cost both sides."""
        answered = max(1, len(self.tally.statuses))
        yield record(data, case, "generator_cpu_ms", 1e3 * self.generator_cpu_s / answered, "ms")
        if self.service_cpu_s is not None:
            yield record(data, case, "cpu_ms", 1e3 * self.service_cpu_s / answered, "ms")


@dataclass
class Figures:
    """What was measured of one case."""

    case: str
    p50_ms: list[float] = field(default_factory=list)
    """At one client, one a round."""
    cpu_ms: list[float] = field(default_factory=list)
    """Per request, one a round; empty where the system does not tell."""
    capacity: Tally | None = None
    half: Tally | None = None
    queueing: float | None = None
    """99th percentile over median of a server that computes as long for each request and does nothing else."""

    def records(self, data: str) -> Iterator[BenchmarkRecord]:
        """Yield the records: medians over the rounds with their range, and the numbers under load."""
        for metric, unit, found in (("cpu_ms", "ms", self.cpu_ms), ("p50_ms", "ms", self.p50_ms)):
            if found:
                yield record(data, self.case, metric, float(np.median(found)), unit, found)
        if self.capacity is not None:
            yield record(data, self.case, "rps_per_core", self.capacity.rate, "1/s")
        if self.half is not None:
            p99 = self.half.percentile_ms(99)
            yield record(data, self.case, "p99_ms", p99, "ms")
            yield record(data, self.case, "p99_over_p50", p99 / float(np.median(self.p50_ms)), "times")
            if self.queueing is not None:
                yield record(data, self.case, "p99_over_p50_of_queueing", self.queueing, "times")
            yield record(data, self.case, "failures", self.half.failed, "requests")


def measure_case(
    case: str,
    service: ServiceRun,
    traffic: Traffic,
    make: Make,
    durations: Durations,
    *,
    cores: Sequence[int] | None,
) -> Figures:
    """Measure one kind of request: one client, capacity, half of it; and at once what waiting in turn alone would make.

    Args:
        cores: Those of the service.

    Raises:
        StoreError: an answer at one client or a sampled one is not what is to be timed.
    """
    figures = one_client(case, service, traffic, make, durations)
    expected = 1e3 / figures.p50_ms[0]
    figures.capacity = saturate(service, traffic, make, durations.capacity_s, expected).tally
    rate = figures.capacity.rate / 2
    traffic.renew(int(FIRST_VISITS * rate * durations.open_s(rate)))
    service.settle()
    counting, took = _at_rate(service.port, make, rate, durations, seed=len(case))
    _look_into(counting)
    figures.half = counting.tally(took)
    for problem in figures.half.problems[:3]:
        click.echo(f"{case}: {problem}", err=True)
    service.settle()
    busy_ms = float(np.median(figures.cpu_ms or figures.p50_ms))
    figures.queueing = queueing_ratio(busy_ms, cores, durations, seed=len(case))
    return figures


def queueing_ratio(busy_ms: float, cores: Sequence[int] | None, durations: Durations, *, seed: int) -> float:
    """Return 99th percentile at half of the capacity over median at one client where nothing but turns is waited for.

    A server on the same cores burns `busy_ms` of processor time a request; the load comes from the same generator.
    """
    request = http_request("recommend", {"user_id": "somebody"})
    with trivial_server(cores, busy_ms) as port:
        alone, crowd = Counting(), Counting()
        closed_loop(port, for_seconds(durations.round_s, lambda _: request), alone, clients=1)
        took = closed_loop(port, for_seconds(durations.round_s, lambda _: request), crowd, clients=CLIENTS)
        half, took = _at_rate(port, lambda _: request, crowd.tally(took).rate / 2, durations, seed=seed)
    return half.tally(took).percentile_ms(99) / alone.tally(1.0).percentile_ms(50)


def _at_rate(port: int, make: Make, rate: float, durations: Durations, *, seed: int) -> tuple[Counting, float]:
    """Send requests at random times (Poisson), so many a second; return what came once warm, and how long it took."""
    counting = Counting(_CHECKED)
    times = poisson_times(rate, durations.open_s(rate), seed=seed)
    warm = int(np.searchsorted(times, durations.half_warm_s))
    took = open_loop(port, make, lambda answer: counting(answer) if answer.index >= warm else None, iter(times))
    return counting, took - durations.half_warm_s


def one_client(case: str, service: ServiceRun, traffic: Traffic, make: Make, durations: Durations) -> Figures:
    """Measure one kind of request with one client, in rounds.

    Raises:
        StoreError: a request failed, or an answer is not what is to be timed.
    """
    figures = Figures(case)
    closed_loop(service.port, for_seconds(durations.warm_s, make), Counting(), clients=1)
    for _ in range(durations.rounds):
        traffic.renew(_RENEWED)
        service.settle()
        counting, processes = Counting(_CHECKED), service.process_ids
        before = cpu_s(processes)
        took = closed_loop(service.port, for_seconds(durations.round_s, make), counting, clients=1)
        service.settle()
        after = cpu_s(processes)
        tally = counting.tally(took)
        if tally.failed or not len(tally.latencies_ms):
            raise StoreError(f"{case}: {tally.failed} of {len(tally.statuses)} requests failed ({tally.problems[:1]})")
        _look_into(counting)
        figures.p50_ms.append(tally.percentile_ms(50))
        if before is not None and after is not None:
            figures.cpu_ms.append(1e3 * (after - before) / len(tally.statuses))
    return figures


def right_after_an_event(service: ServiceRun, traffic: Traffic, durations: Durations) -> Figures:
    """Let one client send an event and ask at once, again and again."""
    figures = Figures(FIRST)
    for _ in range(durations.rounds):
        service.settle()
        events, answers = Counting(), Counting(_CHECKED)
        make = for_seconds(durations.round_s, traffic.event_then_recommend)
        took = closed_loop(service.port, make, _in_turn(events, answers), clients=1)
        tally = answers.tally(took)
        if failed := tally.failed + events.tally(took).failed:
            raise StoreError(f"{FIRST}: {failed} requests failed ({tally.problems[:1]})")
        _look_into(answers)
        figures.p50_ms.append(tally.percentile_ms(50))
    return figures


def _in_turn(events: Counting, answers: Counting) -> Callable[[Answer], None]:
    return lambda answer: (answers if answer.index % 2 else events)(answer)


def saturate(service: ServiceRun, traffic: Traffic, make: Make, seconds: float, expected: float) -> Saturated:
    """Let many clients ask for as much as can be answered.

    Args:
        expected: Answers a second, for enough first visits.
    """
    traffic.renew(int(FIRST_VISITS * expected * seconds))
    service.settle()
    counting, processes, ours = Counting(_CHECKED), service.process_ids, time.process_time()
    before = cpu_s(processes)
    took = closed_loop(service.port, for_seconds(seconds, make), counting, clients=CLIENTS)
    after, ours = cpu_s(processes), time.process_time() - ours
    _look_into(counting)
    theirs = None if before is None or after is None else after - before
    return Saturated(counting.tally(took), theirs, ours)


def _look_into(counting: Counting) -> None:
    for answer in counting.kept:
        if answer.status == 200:
            require_personal(orjson.loads(answer.body))


def record(data: str, case: str, metric: str, value: float, unit: str, rounds: Sequence[float] = ()) -> BenchmarkRecord:
    """Return a record of this bench; `rounds` give it a range."""
    return BenchmarkRecord(
        bench=BENCH,
        data=data,
        case=case,
        metric=metric,
        value=float(value),
        low=min(rounds) if rounds else None,
        high=max(rounds) if rounds else None,
        unit=unit,
        seeds=max(1, len(rounds)),
    )
