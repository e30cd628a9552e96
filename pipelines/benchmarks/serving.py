"""How fast the service answers: one client, HTTP, the deployed bundle, Feast's online store as it is.

The service runs beside this process on a free port, in a copy of the online store, so that the benchmark's users and
events never reach the real one.

    recommend known user          features from Feast, 50 events of history, candidates, fusion, filters
    search cached query           a query whose embedding is remembered
    search new query 6-layer int8 a query never seen: the int8 encoder runs
    naive                         the same search with the PyTorch encoder, an exact float product and a full sort,
                                  in process, without HTTP
"""

import http.client
import json
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.errors import ConfigError, StoreError
from pipelines.places import Places
from pipelines.ports import free_port
from pipelines.pseudonyms import KEY_VARIABLE

if TYPE_CHECKING:
    from pipelines.inference.bundle import Bundle

BENCH = "serving"
REQUESTS = 200
_ROUNDS = 5
_USERS = 20
_HISTORY = 50
_SEED = 13
Request = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Timing:
    """What one round of requests took."""

    latencies_ms: np.ndarray
    """float64 `(n,)`."""
    cpu_ms: float | None
    """Processor time of the service per request; None where the system does not tell."""


def bench_serving(*, json_file: Path | None = None, requests: int = REQUESTS) -> None:
    """Time the deployed bundle, print a table and write the records.

    Args:
        json_file: Where the records go; None writes none.
        requests: Requests per case and round.

    Raises:
        ConfigError: nothing is deployed, or the features were never materialized.
        StoreError: the service did not start or an answer was not 200.
    """
    from pipelines.demo import service
    from pipelines.inference.bundle import load_bundle
    from pipelines.stores.serving_pointer import read_pointer

    places = Places.from_environment()
    pointer = read_pointer(places.current_bundle)
    if pointer is None:
        raise ConfigError(f"Nothing was deployed in {places.home}: run `headrace loop` first.")
    if not (places.feast / "registry.db").is_file():
        raise ConfigError(f"There is no online store in {places.feast}: run `headrace materialize_features` first.")
    bundle = load_bundle(pointer.folder)
    data = f"bundle {bundle.bundle_id}, {bundle.n_items:,} items"
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        copy = Places(Path(name))
        shutil.copytree(places.feast, copy.feast)
        settings = {
            **os.environ,
            "HEADRACE_BUNDLE": str(pointer.folder),
            KEY_VARIABLE: secrets.token_hex(32),
        }
        settings.pop("HEADRACE_API_KEY", None)
        port = free_port()
        with service(copy, port=port, environment=settings) as process:
            client = Client(port)
            users = _make_users(client, bundle)
            workers = descendants(process.pid)
            cases: dict[str, Callable[[int], Sequence[Request]]] = {
                "recommend known user": lambda _: [
                    ("recommend", {"user_id": users[n % len(users)]}) for n in range(requests)
                ],
                "search cached query": lambda _: [
                    ("search", {"query": query}) for query in _cached_queries(bundle, requests)
                ],
                "search new query 6-layer int8": lambda round_: [
                    ("search", {"query": query}) for query in _new_queries(bundle, requests, round_)
                ],
            }
            records: list[BenchmarkRecord] = []
            for case, make in cases.items():
                client.ask_all(make(_ROUNDS))  # warm
                rounds = [_time_round(client, make(round_), workers) for round_ in range(_ROUNDS)]
                records += _records(case, data, rounds)
    records += _records("naive", data, _naive(bundle, min(requests, 50)))
    sys.stdout.write(f"{BENCH}: {data}, {requests} requests x {_ROUNDS} rounds, one client\n{records_table(records)}\n")
    if json_file is not None:
        write_records(records, json_file)


class Client:
    """One HTTP connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, request: Request) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            StoreError: the answer is not 2xx.
        """
        call, body = request
        self._connection.request("POST", f"/{call}", json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        if response.status // 100 != 2:
            raise StoreError(f"/{call} answered {response.status}: {content.decode(errors='replace')[:300]}")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def ask_all(self, requests: Sequence[Request]) -> np.ndarray:
        """Send requests one after the other; return their latencies in ms, float64 `(n,)`."""
        latencies = np.empty(len(requests))
        for index, request in enumerate(requests):
            began = time.perf_counter()
            self.ask(request)
            latencies[index] = 1e3 * (time.perf_counter() - began)
        return latencies


def _make_users(client: Client, bundle: "Bundle") -> list[str]:
    """Give some users a full history; returns their raw ids."""
    generator = random.Random(_SEED)  # noqa: S311 - a benchmark's input
    users = [f"bench-{number}" for number in range(_USERS)]
    for user in users:
        items = generator.sample(bundle.item_ids, min(_HISTORY, bundle.n_items))
        now = time.time()
        events = [
            {
                "user_id": user,
                "event_type": "view",
                "item_id": item,
                "event_timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 3_600 * (age + 1))),
            }
            for age, item in enumerate(items)
        ]
        client.ask(("events", {"events": events}))
        answer = client.ask(("recommend", {"user_id": user}))
        if answer["degraded"] or not answer["personalized"]:
            raise StoreError(f"A user with {len(items)} events is answered as a stranger: {json.dumps(answer)[:300]}")
    return users


def _cached_queries(bundle: "Bundle", count: int) -> list[str]:
    distinct = list(dict.fromkeys(bundle.titles))[:20]
    return [distinct[n % len(distinct)] for n in range(count)]


def _new_queries(bundle: "Bundle", count: int, round_: int) -> list[str]:
    """Return queries of three or four words from titles, all different, in every round too."""
    generator = random.Random(_SEED + round_)  # noqa: S311 - a benchmark's input
    words = sorted({word.strip(",.") for title in bundle.titles for word in title.split() if len(word) > 2})
    return [" ".join([*generator.choices(words, k=3), str(round_ * count + n)]) for n in range(count)]


def _time_round(client: Client, requests: Sequence[Request], workers: Sequence[int]) -> Timing:
    before = _cpu_s(workers)
    latencies = client.ask_all(requests)
    after = _cpu_s(workers)
    cpu_ms = None if before is None or after is None else 1e3 * (after - before) / len(requests)
    return Timing(latencies, cpu_ms)


def _naive(bundle: "Bundle", requests: int) -> list[Timing]:
    """Time the search that most templates have; nothing where its parts are not installed."""
    try:
        import torch

        from pipelines.model.encoder import load_encoder, tokenize

        encoder, tokenizer = load_encoder(bundle.manifest.encoder)
    except (ImportError, ConfigError):
        return []
    torch.set_num_threads(1)
    encoder.eval()
    item_vectors = np.asarray(bundle.item_vectors)

    def answer(query: str) -> list[dict[str, Any]]:
        with torch.inference_mode():
            ids, mask = tokenize(tokenizer, [query], bundle.preprocessing.max_tokens)
            vector = encoder(ids, mask).numpy()[0]
        scores = item_vectors @ vector
        return [{**bundle.display[row], "score": float(scores[row])} for row in np.argsort(-scores)[:10]]

    rounds = []
    for round_ in range(_ROUNDS):
        latencies, cpu = np.empty(requests), time.process_time()
        for index, query in enumerate(_new_queries(bundle, requests, round_)):
            began = time.perf_counter()
            answer(query)
            latencies[index] = 1e3 * (time.perf_counter() - began)
        rounds.append(Timing(latencies, 1e3 * (time.process_time() - cpu) / requests))
    return rounds


def _records(case: str, data: str, rounds: Sequence[Timing]) -> Iterator[BenchmarkRecord]:
    """Yield the medians over the rounds; the interval is the range of the rounds."""
    if not rounds:
        return
    cpu = [one.cpu_ms for one in rounds if one.cpu_ms is not None]
    values = {
        ("cpu_ms", "ms"): cpu,
        ("p50_ms", "ms"): [float(np.percentile(one.latencies_ms, 50)) for one in rounds],
        ("p99_ms", "ms"): [float(np.percentile(one.latencies_ms, 99)) for one in rounds],
        ("rps_per_core", "1/s"): [1e3 / one for one in cpu if one > 0],
    }
    for (metric, unit), found in values.items():
        if found:
            yield BenchmarkRecord(
                bench=BENCH,
                data=data,
                case=case,
                metric=metric,
                value=float(np.median(found)),
                low=min(found),
                high=max(found),
                unit=unit,
                seeds=len(found),
            )


def descendants(process_id: int) -> list[int]:
    """Return the process and all below it; only itself where there is no /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended in between
        parents[int(path.parent.name)] = int(fields[1])
    found = [process_id]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def _cpu_s(process_ids: Sequence[int]) -> float | None:
    """Return the processor time of the processes so far, seconds; None where there is no /proc."""
    total = 0
    for process_id in process_ids:
        try:
            fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
