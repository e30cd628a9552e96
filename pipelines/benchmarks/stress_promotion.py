"""Promote and roll back, again and again, under load: no request may fail, and no old bundle may stay in memory.

Each round promotes the second bundle as the deployment pipeline does (alias, Bento, files, rehearsal with kept
requests, pointer, wait for the service), and then rolls back with the command `headrace rollback`, while another
process sends requests at a steady rate. At the end, a bundle that finds nothing is the canary of a fifth of the users,
until the guard of the service stops it.

Memory may not grow by what one bundle takes when it is open, from before the first promotion to the end, and after the
first round, when both bundles have been open at once and the allocator has its holes, not by the size of its files.
"""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from pipelines.benchmarks.process_accounts import descendants
from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.benchmarks.shop_home import ShopHome
from pipelines.benchmarks.steady_load import Load, Tally, steady_load
from pipelines.benchmarks.synthetic_shop import Shop
from pipelines.errors import StoreError
from pipelines.ports import free_port
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.rollout_file import read_plan, read_stop
from pipelines.stores.service_status import RunningService, running_services

BENCH = "stress-promotion"
ROUNDS = 20
RATE = 60.0
"""Requests a second."""
NEEDED_RATE = 50.0
MAX_GUARD_S = 60.0
_ITEMS, _USERS, _WORDS, _SALES, _DIM = 10_000, 400, 8_000, 8_000, 384
_SEED = 13
_WARM_S = 20.0
"""Seconds under load before the first promotion, and after the last rollback."""
_BUNDLES = ("first", "second")
_BAD, _BAD_SHARE = "bad", 0.2
_POLL_S = 0.1


@dataclass
class Outcome:
    """What was counted and measured."""

    rounds: int
    wanted_rate: float
    tally: Tally = field(default_factory=Tally)
    bundle_mib: float = 0.0
    """Size of a bundle's files."""
    open_bundle_mib: float = 0.0
    """Memory that a bundle takes when it is open, beside another one."""
    memory_mib: list[float] = field(default_factory=list)
    """Of the service's process: before the first promotion, after each rollback, and some time after the last."""
    promotions_s: list[float] = field(default_factory=list)
    """From the alias until the service answers from the new bundle."""
    rollbacks_s: list[float] = field(default_factory=list)
    """From the start of the command until the service answers from the old bundle."""
    guard_s: float = float("nan")
    """From the plan of a bad canary until its guard had stopped it; not a number where it did not in time."""
    wrong_answers: list[str] = field(default_factory=list)
    """Swaps after which the service did not answer from the bundle it should."""

    @property
    def growth_mib(self) -> float:
        """Memory at the end less that before the first promotion."""
        return self.memory_mib[-1] - self.memory_mib[0] if self.memory_mib else float("nan")

    @property
    def later_growth_mib(self) -> float:
        """Memory at the end less that after the first round."""
        return self.memory_mib[-1] - self.memory_mib[1] if len(self.memory_mib) > 1 else float("nan")

    @property
    def reached_rate(self) -> float:
        """Requests a second."""
        return self.tally.requests / self.tally.seconds if self.tally.seconds else 0.0

    @property
    def problems(self) -> list[str]:
        """What must not be, in sentences."""
        found = list(self.wrong_answers)
        if self.tally.failed or not self.tally.requests:
            found.append(
                f"{self.tally.failed} of {self.tally.requests} requests failed ({'; '.join(self.tally.failures[:3])})"
            )
        if not self.growth_mib < self.open_bundle_mib:
            found.append(
                f"memory grew by {self.growth_mib:.1f} MiB, an open bundle takes {self.open_bundle_mib:.1f} MiB"
            )
        if not self.later_growth_mib < self.bundle_mib:
            found.append(
                f"after the first round memory grew by {self.later_growth_mib:.1f} MiB, a bundle's files have "
                f"{self.bundle_mib:.1f} MiB"
            )
        if not self.guard_s <= MAX_GUARD_S:
            found.append(f"a canary that finds nothing was not stopped within {MAX_GUARD_S:g} s")
        if self.tally.versions[_BAD]:
            found.append(f"{self.tally.versions[_BAD]} answers came from a bundle that finds nothing")
        if self.wanted_rate >= NEEDED_RATE > self.reached_rate:
            found.append(f"{self.reached_rate:.1f} requests a second were sent, {NEEDED_RATE:g} are needed")
        return found


def stress_promotion(
    *, rounds: int = ROUNDS, rate: float = RATE, json_file: Path | None = None, work_dir: Path | None = None
) -> Outcome:
    """Run all rounds, print what was measured and write the records.

    Args:
        rounds: Promotions, and as many rollbacks.
        rate: Requests a second.
        json_file: File for the records.
        work_dir: Where the home is made and removed again.

    Raises:
        StoreError: a command failed, or the service did not start.
    """
    from pipelines.commands.demo import service

    outcome = Outcome(rounds, rate)
    with tempfile.TemporaryDirectory(prefix="headrace-stress-", dir=work_dir) as folder:
        home = ShopHome(Path(folder))
        shop = home.prepare(
            items=_ITEMS,
            users=_USERS,
            words=_WORDS,
            sales=_SALES,
            seed=_SEED,
            settings={"deployment": {"sample_share": 0.2, "keep_champions": 5}},
        )
        bundles = _Bundles(home)
        bundles.write(shop)
        outcome.bundle_mib, outcome.open_bundle_mib = bundles.size_mib, bundles.open_mib()
        port = free_port()
        with service(home.places, port=port, environment=home.environment) as process:
            load = Load(port, rate, shop.users, shop.item_ids, shop.titles[:500], seed=_SEED)
            with steady_load(load) as running:
                time.sleep(_WARM_S)
                outcome.memory_mib.append(_memory_mib(process.pid))
                for number in range(1, rounds + 1):
                    _promote_and_roll_back(bundles, outcome)
                    outcome.memory_mib.append(_memory_mib(process.pid))
                    click.echo(_progress(number, outcome), err=True)
                time.sleep(_WARM_S)
                outcome.memory_mib.append(_memory_mib(process.pid))
                outcome.guard_s = bundles.try_bad_canary()
                outcome.tally = running.stop()
    records = _records(outcome, f"{len(shop.titles):,} made-up items, bundle of {outcome.bundle_mib:.0f} MiB")
    click.echo(records_table(records))
    if json_file is not None:
        write_records(records, json_file)
    return outcome


def _promote_and_roll_back(bundles: "_Bundles", outcome: Outcome) -> None:
    for wanted, move, took in (
        (_BUNDLES[1], bundles.promote, outcome.promotions_s),
        (_BUNDLES[0], bundles.roll_back, outcome.rollbacks_s),
    ):
        began = time.time()
        move()
        services = bundles.services()
        if not services or any(service.bundle != wanted for service in services):
            outcome.wrong_answers.append(f"after a swap to {wanted}, {[one.bundle for one in services]} answer")
            continue
        took.append(max(service.since.timestamp() for service in services) - began)


class _Bundles:
    """The registered bundles of a shop's home: two good ones, the first of them live, and a bad one."""

    def __init__(self, home: ShopHome) -> None:
        self._home = home
        self._registry = ModelRegistry(home.places.mlflow)
        self._versions: dict[str, str] = {}
        self.size_mib = 0.0

    def write(self, shop: Shop) -> None:
        """Make them."""
        self._home.places.mlflow.mkdir(parents=True, exist_ok=True)
        for seed, bundle in enumerate((*_BUNDLES, _BAD)):
            manifest = self._home.write_bundle(shop, bundle, dim=_DIM, seed=seed, available=bundle != _BAD)
            self._versions[bundle] = self._registry.register(
                f"run-{bundle}", bundle, self._home.places.bundles / bundle
            )
            self.size_mib = manifest.size_mib
        self._deploy(_BUNDLES[0])

    def promote(self) -> None:
        """Make the second bundle the champion and bring it to the service."""
        self._deploy(_BUNDLES[1])

    def roll_back(self) -> None:
        """Do what a person does."""
        self._home.headrace("rollback")

    def services(self) -> Sequence[RunningService]:
        """Return what answers."""
        return running_services(self._home.places.services)

    def open_mib(self) -> float:
        """Return what the second bundle takes in a process in which the first is open, MiB."""
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            return pool.apply(_open_second_mib, ([self._home.places.bundles / bundle for bundle in _BUNDLES],))

    def try_bad_canary(self) -> float:
        """Have a bundle that finds nothing answer some users; return the seconds until it was stopped, or NaN."""
        places = self._home.places
        self._home.headrace("canary", _BAD, "--share", str(_BAD_SHARE))
        canary = read_plan(places.rollout).canary
        planned_s = places.rollout.stat().st_mtime
        while canary is not None and time.time() < planned_s + MAX_GUARD_S:
            if stop := read_stop(places.canary_stops, canary.id):
                return stop.stopped_at.timestamp() - planned_s
            time.sleep(_POLL_S)
        return float("nan")

    def _deploy(self, bundle: str) -> None:
        self._registry.set_champion(self._versions[bundle])
        self._home.headrace("build_bento", "--bundle", bundle)
        self._home.headrace("deploy_bundle", "--bundle", bundle)


def _open_second_mib(folders: Sequence[Path]) -> float:
    """Open two bundles as the service does; return how much memory the second one took, MiB."""
    from pipelines.inference.bundle import load_bundle

    kept, memory = [], []
    for folder in folders:
        bundle = load_bundle(folder)
        kept.append((bundle, bundle.display, bundle.categories, bundle.brands, bundle.popularity_score))
        memory.append(_resident_mib(os.getpid()))
    return memory[-1] - memory[-2]


def _memory_mib(process_id: int) -> float:
    """Return the resident memory of the largest process of the service, MiB.

    Raises:
        StoreError: the system does not tell.
    """
    found = [_resident_mib(one) for one in descendants(process_id)]
    if not any(found):
        raise StoreError("This system does not say how much memory a process holds (no /proc): run this on Linux.")
    return max(found)


def _resident_mib(process_id: int) -> float:
    try:
        lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def _progress(number: int, outcome: Outcome) -> str:
    return (
        f"round {number} of {outcome.rounds}: promoted in {outcome.promotions_s[-1]:.1f} s, rolled back in "
        f"{outcome.rollbacks_s[-1]:.1f} s, memory {outcome.memory_mib[-1]:.0f} MiB"
        if outcome.promotions_s and outcome.rollbacks_s
        else f"round {number} of {outcome.rounds}"
    )


def _records(outcome: Outcome, data: str) -> list[BenchmarkRecord]:
    tally = outcome.tally
    single: Sequence[tuple[str, float, str]] = (
        ("requests", tally.requests, "requests"),
        ("failures", tally.failed, "requests"),
        ("degraded", tally.degraded, "requests"),
        ("rate", outcome.reached_rate, "1/s"),
        ("p50_ms", tally.percentile(50), "ms"),
        ("p99_ms", tally.percentile(99), "ms"),
        ("swaps", len(outcome.promotions_s) + len(outcome.rollbacks_s), "swaps"),
        ("memory_before_mib", outcome.memory_mib[0], "MiB"),
        ("memory_after_mib", outcome.memory_mib[-1], "MiB"),
        ("memory_growth_mib", outcome.growth_mib, "MiB"),
        ("growth_after_first_round_mib", outcome.later_growth_mib, "MiB"),
        ("open_bundle_mib", outcome.open_bundle_mib, "MiB"),
        ("bundle_mib", outcome.bundle_mib, "MiB"),
    )
    make: Callable[..., BenchmarkRecord] = BenchmarkRecord
    records = [
        make(bench=BENCH, data=data, case="under load", metric=metric, value=value, unit=unit, seeds=1)
        for metric, value, unit in single
    ]
    cases = {"promotion": outcome.promotions_s, "rollback": outcome.rollbacks_s}
    if math.isfinite(outcome.guard_s):
        cases["bad canary stopped"] = [outcome.guard_s]
    for case, seconds in cases.items():
        for metric, value in (("p50_s", float(np.median(seconds))), ("max_s", max(seconds))) if seconds else ():
            records.append(
                make(bench=BENCH, data=data, case=case, metric=metric, value=value, unit="s", seeds=len(seconds))
            )
    return records
