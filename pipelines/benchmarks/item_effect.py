"""From an accepted item to the first answer that shows it, and what the others notice of it.

Requests run all the time, half of them searches that were asked before and half recommendations: first alone, then
beside one change of an item a second, then beside one call with many items.

    quiet               the requests alone
    one change a second beside new items, new titles of known ones and deletions, one after the other
    new item            from the 202 to the search that finds it
    new title           from the 202 to the search that finds a known item by a word it had not
    deleted             from the 202 to the search that finds it no more
    many items          one call with `_MANY` new items: until the last is found by words, and until all have vectors
                        (of the small tower, where the bundle has one)
"""

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipelines.benchmarks.http_load import Answer, open_loop, poisson_times
from pipelines.benchmarks.records import BenchmarkRecord, write_records
from pipelines.benchmarks.service_runs import ServiceRun
from pipelines.benchmarks.serving import deployed_copy
from pipelines.benchmarks.serving_bars import Bar, missed, table_with_bars
from pipelines.benchmarks.serving_traffic import Traffic
from pipelines.errors import StoreError

BENCH = "item-effect"
QUIET, BESIDE, MANY = "quiet", "one change a second", "many items"
NEW, TITLE, DELETED = "new item", "new title", "deleted"
MAX_EFFECT_MS = 1_000.0
BARS = [
    *(Bar(case, "p99_ms", MAX_EFFECT_MS) for case in (NEW, TITLE, DELETED)),
    *(Bar(MANY, metric, MAX_EFFECT_MS) for metric in ("by_words_ms", "all_vectors_ms")),
    *(Bar(case, "failures", 0) for case in (QUIET, BESIDE, MANY)),
]
_MANY = 1_000
_POLL_S = 0.005
_GIVE_UP_S = 30.0
_BUSY = 503
_USERS = 100
_LOOKED_AT = 10
"""Places of a search in which an item is looked for."""


def bench_item_effect(
    *, rate: float = 100, seconds: float = 30, workers: int = 1, json_file: Path | None = None
) -> list[str]:
    """Measure, print a table with the bars and write the records.

    Args:
        rate: Requests a second.
        seconds: How long each of the two first parts takes.
        workers: Processes of the service.
        json_file: Where the records go; None writes none.

    Returns:
        What misses its bar, one sentence a figure.

    Raises:
        ConfigError: nothing is deployed.
        StoreError: the service did not start, or an item was refused or never found.
    """
    from pipelines.inference.bundle import load_bundle

    with deployed_copy() as (places, environment):
        bundle = load_bundle(next(places.bundles.iterdir()))
        data = f"bundle {bundle.bundle_id}, {bundle.n_items:,} items, {rate:g} requests/s, {workers} worker(s)"
        records: list[BenchmarkRecord] = []

        def record(case: str, metric: str, value: float, unit: str, seeds: int = 1) -> None:
            records.append(
                BenchmarkRecord(
                    bench=BENCH, data=data, case=case, metric=metric, value=float(value), unit=unit, seeds=seeds
                )
            )

        with ServiceRun(places, environment, worker_count=workers) as service:
            service.start()
            traffic = Traffic(bundle, service.port, users=_USERS)
            traffic.make_users()
            with _requests(traffic, rate) as answers:
                time.sleep(seconds)
            _record_load(record, QUIET, answers)
            with _requests(traffic, rate) as answers:
                effects = _changes(service.port, bundle.item_ids, seconds)
            _record_load(record, BESIDE, answers)
            for case, found in effects.items():
                for percentile in (50, 99):
                    value = float(np.percentile(found, percentile))
                    record(case, f"p{percentile}_ms", value, "ms", seeds=len(found))
            with _requests(traffic, rate) as answers:
                for metric, value in _many(service.port, bundle.titles).items():
                    record(MANY, metric, value, "ms")
            _record_load(record, MANY, answers)
    click.echo(table_with_bars(records, BARS))
    if json_file is not None:
        write_records(records, json_file)
    return missed(records, BARS)


class BusyError(StoreError):
    """The service refuses a request because it has too many."""


@contextmanager
def _requests(traffic: Traffic, rate: float) -> Iterator[list[Answer]]:
    """Send requests until the block ends, and give their answers then."""
    answers: list[Answer] = []
    over = threading.Event()
    times = iter(poisson_times(rate, 600, seed=7).tolist())

    def make(number: int) -> bytes | None:
        if over.is_set():
            return None
        return traffic.search_cached(number) if number % 2 else traffic.recommend(number)

    thread = threading.Thread(target=open_loop, args=(traffic.port, make, answers.append, times))
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def _record_load(record: Callable[..., None], case: str, answers: list[Answer]) -> None:
    latencies = [answer.latency_ms for answer in answers if answer.is_ok]
    for percentile in (50, 99):
        record(case, f"p{percentile}_ms", float(np.percentile(latencies, percentile)), "ms", seeds=len(latencies))
    record(case, "slowest_ms", max(latencies), "ms")
    record(case, "failures", len(answers) - len(latencies), "requests")


def _changes(port: int, item_ids: list[str], seconds: float) -> dict[str, list[float]]:
    """Change an item a second, by turns in three ways; return the milliseconds until each was seen."""
    effects: dict[str, list[float]] = {NEW: [], TITLE: [], DELETED: []}
    until, run = time.monotonic() + seconds, uuid.uuid4().hex[:6]
    number = 0
    while time.monotonic() < until:
        began = time.monotonic()
        word, new = _word(number), f"bench-{run}-{number // 3}"
        if number % 3 == 0:
            _put(port, {"item_id": new, "title": f"{word} thing", "price": 2.5})
            effects[NEW].append(_until(_finds, port, word, new))
        elif number % 3 == 1:
            known = item_ids[(7_919 * number) % len(item_ids)]
            _put(port, {"item_id": known, "title": f"{word} thing of before"})
            effects[TITLE].append(_until(_finds, port, word, known))
        else:
            word = _word(number - 2)
            ask(port, f"items/{new}", None, method="DELETE")
            effects[DELETED].append(_until(_misses, port, word, new))
        number += 1
        time.sleep(max(0.0, began + 1 - time.monotonic()))
    return effects


def _many(port: int, titles: Sequence[str]) -> dict[str, float]:
    """Put many items in one call; return what took how long, ms."""
    run = uuid.uuid4().hex[:6]
    items = [
        {"item_id": f"many-{run}-{number}", "title": f"{_word(number)} {titles[(7_919 * number) % len(titles)]}"}
        for number in range(10_000, 10_000 + _MANY)
    ]
    began = time.perf_counter()
    _put(port, *items)
    call_ms = 1e3 * (time.perf_counter() - began)
    last = items[-1]
    by_words_ms = _until(_finds, port, last["title"].split()[0], last["item_id"])
    longest = max(items, key=lambda item: len(item["title"]))  # which is read last
    _until(_has_vector, port, longest["item_id"])
    return {"call_ms": call_ms, "by_words_ms": by_words_ms, "all_vectors_ms": 1e3 * (time.perf_counter() - began)}


def ask(port: int, call: str, body: Any, *, method: str = "POST") -> dict[str, Any]:
    """Send one request over a connection of its own and return its answer.

    Raises:
        BusyError: the service has too much to do.
        StoreError: the answer is not 2xx.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        content = json.dumps(body).encode() if body is not None else b""
        connection.request(method, f"/{call}", content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    if response.status // 100 != 2:
        error = BusyError if response.status == _BUSY else StoreError
        raise error(f"/{call} answered {response.status}: {raw[:300].decode(errors='replace')}")
    answer: dict[str, Any] = json.loads(raw)
    return answer


def _put(port: int, *items: dict[str, Any]) -> None:
    accepted = ask(port, "items", {"items": list(items)}, method="PUT")["accepted"]
    if accepted != len(items):
        raise StoreError(f"{accepted} of {len(items)} items were accepted: look into the log of the service.")


def _finds(port: int, word: str, item_id: str) -> bool:
    return any(item["item_id"] == item_id for item in ask(port, "search", {"query": word, "k": _LOOKED_AT})["items"])


def _misses(port: int, word: str, item_id: str) -> bool:
    return not _finds(port, word, item_id)


def _has_vector(port: int, item_id: str) -> bool:
    found = ask(port, "similar", {"item_id": item_id, "k": 1})["items"]
    return bool(found) and found[0]["score"] > 0


def _until(is_so: Callable[..., bool], *arguments: Any) -> float:
    """Ask until it is so; return the milliseconds.

    Raises:
        StoreError: it never was.
    """
    began = time.perf_counter()
    while True:
        with suppress(BusyError):
            if is_so(*arguments):
                return 1e3 * (time.perf_counter() - began)
        if time.perf_counter() - began > _GIVE_UP_S:
            raise StoreError(f"A change of an item was not seen within {_GIVE_UP_S:g} s.")
        time.sleep(_POLL_S)


def _word(number: int) -> str:
    """Return a word that no catalogue has, another one for each number."""
    letters = "".join(chr(ord("a") + int(digit)) for digit in str(number))
    return f"qx{letters}zy"
