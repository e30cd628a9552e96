"""Minutes of mixed load and odd bodies: no 5xx, no crash, no memory that grows.

First every query is asked once, so that what is remembered of queries is as large as it may be. Then searches,
recommendations and events arrive at a steady rate from one process, bodies from `odd_bodies` from another. The worker's
memory is measured all the time: the median of the last part may not be above that after the second minute (or the first
fifth of a shorter run) by more than a bound.
"""

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipelines.benchmarks.http_load import (
    Answer,
    closed_loop,
    described,
    endless_poisson_times,
    http_request,
    open_loop,
)
from pipelines.benchmarks.mixed_load import Ledger, Mix, mixed_load
from pipelines.benchmarks.odd_bodies import odd_requests
from pipelines.benchmarks.process_accounts import memory
from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.benchmarks.service_runs import ServiceRun
from pipelines.benchmarks.shop_home import ShopHome
from pipelines.errors import StoreError

BENCH = "soak"
RATE = 60.0
"""Good requests a second."""
ODD_RATE = 30.0
MAX_GROWTH_MIB = 24.0
"""Of the worker's PSS, from after the warm-up to the end."""
_WARM_S, _WARM_SHARE = 120.0, 0.2
_SAMPLE_S = 1.0
_MEASURED_SHARE = 0.15
"""Of the time behind the warm-up, at its beginning and at its end: what is compared."""
_ITEMS, _USERS, _WORDS, _SALES, _DIM, _SEED = 5_000, 300, 4_000, 4_000, 384, 13
_KEPT = 5


@dataclass
class Outcome:
    """What was counted."""

    seconds: float
    ledger: Ledger = field(default_factory=Ledger)
    odd_statuses: Counter[int] = field(default_factory=Counter)
    """Answers to odd bodies; 0 where there was none."""
    odd_problems: list[str] = field(default_factory=list)
    """5xx and missing answers, the first ones."""
    memory_mib: list[tuple[float, float]] = field(default_factory=list)
    """Seconds from the start, and the worker's PSS then."""
    restarts: int = 0
    """How often the worker was another process than before."""

    @property
    def growth_mib(self) -> float:
        """Memory at the end less that after the warm-up, medians."""
        warm_s = min(_WARM_S, _WARM_SHARE * self.seconds)
        span = _MEASURED_SHARE * (self.seconds - warm_s)
        first = [mib for at, mib in self.memory_mib if warm_s <= at < warm_s + span]
        last = [mib for at, mib in self.memory_mib if at >= self.seconds - span]
        return float(np.median(last) - np.median(first)) if first and last else float("nan")

    @property
    def problems(self) -> list[str]:
        """What must not be, in sentences."""
        found = []
        if self.ledger.failures or not self.ledger.entries:
            found.append(
                f"{len(self.ledger.failures)} of {len(self.ledger.entries)} requests failed "
                f"({self.ledger.described_failures()})"
            )
        if bad := sum(count for status, count in self.odd_statuses.items() if status == 0 or status >= 500):
            found.append(f"{bad} odd bodies got a 5xx or no answer ({'; '.join(self.odd_problems)})")
        if not self.odd_statuses:
            found.append("no odd body was sent")
        if self.restarts:
            found.append(f"the worker ended and was started again {self.restarts} times")
        if not self.growth_mib <= MAX_GROWTH_MIB:
            found.append(f"memory grew by {self.growth_mib:.1f} MiB, {MAX_GROWTH_MIB:g} are allowed")
        return found

    def records(self, data: str) -> Iterator[BenchmarkRecord]:
        """Yield the records."""
        values: list[tuple[str, str, float, str]] = [
            ("mixed load", "requests", len(self.ledger.entries), "requests"),
            ("mixed load", "failures", len(self.ledger.failures), "requests"),
            ("mixed load", "degraded", sum(self.ledger.degraded.values()), "requests"),
            ("mixed load", "p50_ms", self.ledger.percentile_ms(50), "ms"),
            ("mixed load", "p99_ms", self.ledger.percentile_ms(99), "ms"),
            ("odd bodies", "requests", sum(self.odd_statuses.values()), "requests"),
            ("odd bodies", "failures", sum(n for one, n in self.odd_statuses.items() if not 0 < one < 500), "requests"),
            ("worker", "memory_start_mib", self.memory_mib[0][1], "MiB"),
            ("worker", "memory_end_mib", self.memory_mib[-1][1], "MiB"),
            ("worker", "growth_mib", self.growth_mib, "MiB"),
        ]
        for case, metric, value, unit in values:
            yield BenchmarkRecord(bench=BENCH, data=data, case=case, metric=metric, value=value, unit=unit, seeds=1)


def soak(
    *,
    minutes: float,
    rate: float = RATE,
    odd_rate: float = ODD_RATE,
    json_file: Path | None = None,
    work_dir: Path | None = None,
) -> Outcome:
    """Run, print what was counted and write the records.

    Args:
        minutes: How long.
        rate: Good requests a second.
        odd_rate: Odd bodies a second.
        json_file: File for the records.
        work_dir: Where the home is made and removed again.

    Raises:
        StoreError: a step of the preparation failed, or the service did not start.
    """
    outcome = Outcome(60 * minutes)
    with tempfile.TemporaryDirectory(prefix="headrace-soak-", dir=work_dir) as name:
        home = ShopHome(Path(name))
        shop = home.prepare(items=_ITEMS, users=_USERS, words=_WORDS, sales=_SALES, seed=_SEED)
        home.write_bundle(shop, "only", dim=_DIM, seed=0)
        home.point_to("only")
        with ServiceRun(home.places, home.environment) as service:
            service.start()
            mix = Mix(service.port, rate, shop.users, shop.item_ids, [*shop.titles, *shop.words], seed=_SEED)
            _ask_every_query(mix)
            with mixed_load(mix) as running, odd_load(service.port, odd_rate, shop.item_ids[0]) as odd:
                _watch_memory(service, outcome)
                outcome.odd_statuses, outcome.odd_problems = odd.stop()
                outcome.ledger = running.stop()
    data = f"{_ITEMS:,} made-up items, {rate:g} requests/s and {odd_rate:g} odd bodies/s for {minutes:g} minutes"
    records = list(outcome.records(data))
    click.echo(records_table(records))
    click.echo("odd bodies: " + ", ".join(f"{n:,} x {status}" for status, n in sorted(outcome.odd_statuses.items())))
    if json_file is not None:
        write_records(records, json_file)
    return outcome


def _ask_every_query(mix: Mix) -> None:
    bodies = [{"query": query, "user_id": mix.users[place % len(mix.users)]} for place, query in enumerate(mix.queries)]
    closed_loop(
        mix.port,
        lambda index: http_request("search", bodies[index]) if index < len(bodies) else None,
        lambda _: None,
        clients=2,
    )


def _watch_memory(service: ServiceRun, outcome: Outcome) -> None:
    began, worker, told = time.monotonic(), service.workers[0], 0.0
    while (passed := time.monotonic() - began) < outcome.seconds:
        if (found := service.workers[:1]) and found[0] == worker:
            try:
                outcome.memory_mib.append((passed, memory(worker).pss))
            except StoreError:
                continue  # it has just ended
        elif found:
            outcome.restarts, worker = outcome.restarts + 1, found[0]
        if passed - told >= 60:
            told = passed
            click.echo(f"minute {passed / 60:.0f}: {outcome.memory_mib[-1][1]:.0f} MiB", err=True)
        time.sleep(_SAMPLE_S)


@contextmanager
def odd_load(port: int, rate: float, item_id: str) -> Iterator["RunningOdd"]:
    """Send odd bodies from a process of its own while the block runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_odd, args=(port, rate, item_id, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield RunningOdd(ours)
    finally:
        process.kill()
        process.join()


class RunningOdd:
    """The process that sends odd bodies."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def stop(self) -> tuple[Counter[int], list[str]]:
        """End it; return the statuses it got, and what was wrong.

        Raises:
            StoreError: it ended by itself.
        """
        try:
            self._connection.send("stop")
            found: tuple[Counter[int], list[str]] = self._connection.recv()
        except (EOFError, OSError):
            raise StoreError("The process that sends odd bodies ended by itself: see above why.") from None
        return found


def _send_odd(port: int, rate: float, item_id: str, connection: Connection) -> None:
    requests = odd_requests(item_id, _SEED)
    sent: dict[int, tuple[str, bytes]] = {}
    statuses: Counter[int] = Counter()
    problems: list[str] = []

    def next_request(index: int) -> bytes | None:
        if connection.poll():
            return None
        sent[index] = next(requests)
        return http_request(*sent[index])

    def answered(answer: Answer) -> None:
        call, body = sent.pop(answer.index)
        statuses[answer.status] += 1
        if not 0 < answer.status < 500 and len(problems) < _KEPT:
            problems.append(f"/{call} {body[:80]!r}: {described(answer)[:200]}")

    open_loop(port, next_request, answered, endless_poisson_times(rate, _SEED), connections=100)
    connection.recv()
    connection.send((statuses, problems))
