"""From an event to the first answer that shows it, under load: events and requests at 200 a second each.

A probe asks for a recommendation, buys the item on top of it, and asks again until that item is gone: what was bought
within the last days is not recommended. The clock runs from sending the event until the answer that shows it is there,
so it holds the wait for the disk, the answer to the event and the answer to the request.

    known user    has a history
    unknown user  was never seen; the answer must also turn personalized
    new session   a known user in a session that has just begun
    new item      `PUT /items`, then searched for by its title, where the service has that call
"""

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from pipelines.benchmarks.http_load import Answer, closed_loop, http_request
from pipelines.benchmarks.mixed_load import Ledger, Mix, mixed_load
from pipelines.benchmarks.records import BenchmarkRecord, write_records
from pipelines.benchmarks.service_runs import ServiceRun
from pipelines.benchmarks.serving import deployed_copy
from pipelines.benchmarks.serving_bars import Bar, missed, table_with_bars
from pipelines.benchmarks.serving_traffic import Traffic, ask
from pipelines.errors import ConfigError, StoreError

BENCH = "event-effect"
KNOWN, UNKNOWN, SESSION, ITEM = "known user", "unknown user", "new session", "new item"
MAX_P99_MS = 50.0
MAX_ITEM_MS = 1_000.0
BARS = [
    *(Bar(case, "p99_ms", MAX_P99_MS) for case in (KNOWN, UNKNOWN, SESSION)),
    Bar(ITEM, "p99_ms", MAX_ITEM_MS),
    *(Bar(case, "never_seen", 0) for case in (KNOWN, UNKNOWN, SESSION, ITEM)),
    Bar("load", "failures", 0),
]
_GIVE_UP_S = 5.0
_PROBES_A_SECOND = 5.0
"""Of each case but new items."""
_ITEMS_A_SECOND = 1.0
_POLL_S = 0.002
_USERS = 500


@dataclass
class Effects:
    """What the probes of one case saw."""

    case: str
    effect_ms: list[float] = field(default_factory=list)
    """Of the effects that were seen."""
    at_once: int = 0
    """Effects that the very first answer after the event showed."""
    never_seen: int = 0
    problems: list[str] = field(default_factory=list)

    def records(self, data: str) -> list[BenchmarkRecord]:
        """Return the records."""
        values = [("never_seen", float(self.never_seen), "probes")]
        if self.effect_ms:
            values = [
                ("p50_ms", float(np.percentile(self.effect_ms, 50)), "ms"),
                ("p99_ms", float(np.percentile(self.effect_ms, 99)), "ms"),
                ("seen_at_once", self.at_once / len(self.effect_ms), "share"),
                *values,
            ]
        return [_record(data, self.case, *value, seeds=len(self.effect_ms) + self.never_seen) for value in values]


def bench_event_effect(
    *, rate: float = 200, seconds: float = 20, workers: int = 1, json_file: Path | None = None
) -> list[str]:
    """Measure under load, print a table with the bars and write the records.

    Args:
        rate: Events a second, and as many requests.
        seconds: How long.
        workers: Processes of the service.
        json_file: Where the records go; None writes none.

    Returns:
        What misses its bar, one sentence a figure.

    Raises:
        ConfigError: nothing is deployed, or bought items are not left out of recommendations.
        StoreError: the service did not start, or a probe got no answer.
    """
    from pipelines.config import load_config
    from pipelines.inference.bundle import load_bundle

    if load_config().serving.exclude_purchased_days <= 0:
        raise ConfigError("`serving.exclude_purchased_days` is 0: this bench sees an event by the item that is gone.")
    with deployed_copy() as (places, environment):
        bundle = load_bundle(next(places.bundles.iterdir()))
        data = f"bundle {bundle.bundle_id}, {bundle.n_items:,} items, {rate:g} events/s and requests/s"
        with ServiceRun(places, environment, worker_count=workers) as service:
            service.start()
            traffic = Traffic(bundle, service.port, users=_USERS)
            traffic.make_users()
            mix = Mix(
                service.port,
                2 * rate,
                users=traffic.users,
                item_ids=[traffic.item() for _ in range(2_000)],
                queries=traffic.cached,
                event_share=0.5,
                similar_share=0,
                search_share=0.2,
            )
            with mixed_load(mix) as running:
                effects = _probe(service.port, traffic.users, seconds)
                ledger = running.stop()
    records = [record for one in effects for record in one.records(data)] + _load_records(ledger, data)
    click.echo(table_with_bars(records, BARS))
    for problem in [problem for one in effects for problem in one.problems][:5]:
        click.echo(problem, err=True)
    if ledger.failures:
        click.echo(f"load: {ledger.described_failures()}", err=True)
    if json_file is not None:
        write_records(records, json_file)
    return missed(records, BARS)


def _probe(port: int, users: Sequence[str], seconds: float) -> list[Effects]:
    """Probe all cases at once, each from a thread of its own."""
    half = len(users) // 2
    known, sessions = itertools.cycle(users[:half]), itertools.cycle(users[half:])
    run = uuid.uuid4().hex[:8]
    effects = [Effects(KNOWN), Effects(UNKNOWN), Effects(SESSION)]
    probes: list[Callable[[int], None]] = [
        lambda _: probe_user(port, next(known), effects[0]),
        lambda number: probe_user(port, f"stranger-{run}-{number}", effects[1], stranger=True),
        lambda number: probe_user(port, next(sessions), effects[2], session=f"session-{run}-{number}"),
    ]
    rates = [_PROBES_A_SECOND] * 3
    if has_items_call(port):
        effects.append(Effects(ITEM))
        probes.append(lambda number: probe_item(port, f"fresh-{run}-{number}", effects[3]))
        rates.append(_ITEMS_A_SECOND)
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_keep_probing, args=(probe, effect, rate, until))
        for probe, effect, rate in zip(probes, effects, rates, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return effects


def _keep_probing(probe: Callable[[int], None], effects: Effects, rate: float, until: float) -> None:
    pause = random.Random(effects.case)  # noqa: S311 - moments, not secrets
    for number in itertools.count():
        try:
            probe(number)
        except (StoreError, KeyError) as error:
            effects.never_seen += 1
            effects.problems.append(f"{effects.case}: {error}")
        if time.monotonic() > until:
            return
        time.sleep(pause.expovariate(rate))


def probe_user(port: int, user: str, effects: Effects, *, stranger: bool = False, session: str | None = None) -> None:
    """Buy the item on top of a user's recommendations and wait until it is gone.

    Raises:
        StoreError: a request failed, or the user is not what the case says.
    """
    before = ask(port, "recommend", {"user_id": user})
    if before["personalized"] is stranger:
        raise StoreError(f"`personalized` is {before['personalized']} before the event")
    item_id = before["items"][0]["item_id"]
    event = {"user_id": user, "event_type": "purchase", "item_id": item_id}
    if session is not None:
        event["session_id"] = session

    def is_shown() -> bool:
        answer = ask(port, "recommend", {"user_id": user})
        return answer["personalized"] and all(item["item_id"] != item_id for item in answer["items"])

    began = time.perf_counter()
    ask(port, "events", {"events": [event]})
    _await(is_shown, began, effects)


def probe_item(port: int, item_id: str, effects: Effects) -> None:
    """Put an item and search for its title until it is found.

    Raises:
        StoreError: a request failed.
    """
    title = f"fresh thing {item_id.replace('-', ' ')}"
    began = time.perf_counter()
    ask(port, "items", {"items": [{"item_id": item_id, "title": title}]}, method="PUT")
    _await(
        lambda: any(item["item_id"] == item_id for item in ask(port, "search", {"query": title})["items"]),
        began,
        effects,
    )


def has_items_call(port: int) -> bool:
    """Whether the service takes items."""
    found: list[Answer] = []
    request = http_request("items", {"items": []}, method="PUT")
    closed_loop(port, lambda index: request if index < 1 else None, found.append, clients=1)
    return found[0].status not in (0, 404, 405)


def _await(is_shown: Callable[[], bool], began: float, effects: Effects) -> None:
    for number in itertools.count():
        if is_shown():
            effects.effect_ms.append(1e3 * (time.perf_counter() - began))
            effects.at_once += number == 0
            return
        if time.perf_counter() - began > _GIVE_UP_S:
            effects.never_seen += 1
            effects.problems.append(f"{effects.case}: no answer within {_GIVE_UP_S:g} s showed the event")
            return
        time.sleep(_POLL_S)


def _load_records(ledger: Ledger, data: str) -> list[BenchmarkRecord]:
    entries = ledger.entries
    seconds = max(one.due_s for one in entries) - min(one.due_s for one in entries) if len(entries) > 1 else 1.0
    values: list[tuple[str, float, str]] = [
        ("rate", len(entries) / seconds, "1/s"),
        ("p50_ms", ledger.percentile_ms(50), "ms"),
        ("p99_ms", ledger.percentile_ms(99), "ms"),
        ("failures", len(ledger.failures), "requests"),
        ("degraded", sum(ledger.degraded.values()), "requests"),
    ]
    return [_record(data, "load", *value) for value in values]


def _record(data: str, case: str, metric: str, value: float, unit: str, seeds: int = 1) -> BenchmarkRecord:
    return BenchmarkRecord(bench=BENCH, data=data, case=case, metric=metric, value=float(value), unit=unit, seeds=seeds)
