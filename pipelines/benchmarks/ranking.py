"""What the functions behind the service cost, in processor time of one thread, without HTTP and the feature store.

Each call is timed three ways: `from scratch` (all items are compared, nothing is remembered), `first` (the index that
the service opens, nothing remembered yet: a user after an event, a query never seen) and `again` (what is remembered
holds; for users also `next minute`, when only their candidates do). Beside that, what the index gives up for it.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.config import ServingConfig
from pipelines.errors import ConfigError
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.places import Places
from pipelines.ranking.answers import recommend, search, similar
from pipelines.ranking.filtering import Filters
from pipelines.ranking.fusion import weighted_mean
from pipelines.ranking.prepared import Prepared
from pipelines.retrieval.vector_index import FAST_SCAN_FROM, Asker, VectorIndex
from pipelines.stores.serving_pointer import read_pointer
from pipelines.stores.vector_index_files import index_path, indexed

BENCH = "ranking"
CALLS = 200
_ROUNDS = 3
_SHORTEST, _LONGEST = 50, 200
"""Events of a user."""
_BASKET, _SPAN_DAYS, _EVENT_TYPE = 5, 180, "purchase"
_K, _RECALL_AT = 10, 100
_SEED = 17
_SAME = 1e-5
"""Cosines this near are one: many items have the same text."""
_DAY_S, _MINUTE_S = 86_400, 60


@dataclass(frozen=True)
class Shopper:
    """A made-up history: baskets over half a year, popular items more often."""

    item_ids: list[str]
    event_types: list[str]
    event_times: list[int]
    activity: dict[str, float | None]


@dataclass(frozen=True)
class Question:
    """What is asked: the same of every configuration."""

    users: list[Shopper]
    queries: list[str]
    query_vectors: np.ndarray
    item_ids: list[str]
    now_s: float


def bench_ranking(
    *,
    json_file: Path | None = None,
    bundle_folder: Path | None = None,
    calls: int = CALLS,
    fast_scan_from: int = FAST_SCAN_FROM,
) -> list[BenchmarkRecord]:
    """Time the functions on a bundle, print a table and write the records.

    Args:
        json_file: Where the records go; None writes none.
        bundle_folder: The bundle; None takes the deployed one.
        calls: Calls a case and round.
        fast_scan_from: Items from which on the index is approximate.

    Raises:
        ConfigError: nothing is deployed and no bundle is named.
        BundleError: the bundle cannot be opened.
    """
    exact = load_bundle(bundle_folder or _deployed(), verify=False, device="cpu")
    data = f"bundle {exact.bundle_id}, {exact.n_items:,} items"
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        exact.folder = Path(name) / "bundle"  # the index is made anew, beside it
        began = time.process_time()
        fast = indexed(exact, fast_scan_from=fast_scan_from)
        built_s = time.process_time() - began
        kept_mib = index_path(exact).stat().st_size / 2**20 if fast is not exact else 0.0
    asked = questions(exact, calls)
    rounds = [_times(exact, fast, replace(asked, users=_anew(asked.users))) for _ in range(_ROUNDS)]
    records = [
        _record(data, case, "cpu_ms", [float(np.median(times[case])) for times in rounds], "ms") for case in rounds[0]
    ]
    records += [
        _record(data, "index", "built_s", [built_s], "s"),
        _record(data, "index", "kept_mib", [kept_mib], "MiB"),
    ]
    records += _losses(data, exact, fast, asked)
    sys.stdout.write(f"{BENCH}: {data}, {calls} calls x {_ROUNDS} rounds, one thread\n{records_table(records, 3)}\n")
    if json_file is not None:
        write_records(records, json_file)
    return records


def questions(bundle: Bundle, count: int) -> Question:
    """Return what is asked; the same bundle gives the same questions."""
    chooser = np.random.default_rng(_SEED)
    chances = bundle.popularity + 1.0
    now_s = bundle.manifest.created_at.timestamp()
    users = []
    for length in chooser.integers(_SHORTEST, _LONGEST + 1, count).tolist():
        rows = chooser.choice(bundle.n_items, length, p=chances / chances.sum())
        ages = np.sort(chooser.random(-(-length // _BASKET)))[::-1] * _SPAN_DAYS * _DAY_S
        times = np.repeat(now_s - ages, _BASKET)[:length].astype(int).tolist()
        users.append(Shopper([bundle.item_ids[row] for row in rows], [_EVENT_TYPE] * length, times, {}))
    titles = [bundle.titles[row].replace(",", " ").split() for row in chooser.integers(0, bundle.n_items, 2 * count)]
    words = [" ".join(chooser.permutation(title)[: chooser.integers(1, 4)].tolist()) for title in titles if title]
    queries = list(dict.fromkeys(words))[:count]
    items = [bundle.item_ids[row] for row in chooser.choice(bundle.n_items, min(count, bundle.n_items), replace=False)]
    return Question(users, queries, bundle.encode_queries(queries), items, now_s)


def _deployed() -> Path:
    pointer = read_pointer(Places.from_environment().current_bundle)
    if pointer is None:
        raise ConfigError("Nothing was deployed: run `headrace loop` first, or name a bundle with --bundle.")
    return pointer.folder


def _anew(users: Sequence[Shopper]) -> list[Shopper]:
    """Return the same users as objects that nobody has seen."""
    return [replace(user) for user in users]


def _times(exact: Bundle, fast: Bundle, asked: Question) -> dict[str, np.ndarray]:
    """Return the processor time of every call, milliseconds, by case."""
    serving, prepared = ServingConfig(), Prepared(ServingConfig())
    category = next((name for name in exact.items["category"].to_pylist() if name), None)
    filters = Filters(categories=(category,) if category else ())

    def user_calls(bundle: Bundle, later_s: float = 0, **more: Any) -> list[Callable[[], object]]:
        options: dict[str, Any] = {"k": _K, "now_s": asked.now_s + later_s, "serving": serving, **more}
        return [partial(recommend, bundle, user, **options) for user in asked.users]

    def query_calls(bundle: Bundle, **more: Any) -> list[Callable[[], object]]:
        options: dict[str, Any] = {"k": _K, "now_s": asked.now_s, "serving": serving, **more}
        return [
            partial(search, bundle, query, query_vector=vector, **options)
            for query, vector in zip(asked.queries, asked.query_vectors, strict=True)
        ]

    def item_calls(bundle: Bundle, **more: Any) -> list[Callable[[], object]]:
        options: dict[str, Any] = {"k": _K, "serving": serving, **more}
        return [partial(similar, bundle, item_id, **options) for item_id in asked.item_ids]

    known: dict[str, Any] = {"prepared": prepared}
    cases = {
        "recommend from scratch": user_calls(exact),
        "recommend first": user_calls(fast, **known),
        "recommend again": user_calls(fast, **known),
        "recommend next minute": user_calls(fast, _MINUTE_S, **known),
        "recommend filtered": user_calls(fast, filters=filters, **known),
        "search from scratch": query_calls(exact),
        "search first": query_calls(fast, **known),
        "search again": query_calls(fast, **known),
        "search again, personal": query_calls(fast, features=asked.users[0], **known),
        "search filtered": query_calls(fast, filters=filters, **known),
        "similar from scratch": item_calls(exact),
        "similar first": item_calls(fast, **known),
        "similar again": item_calls(fast, **known),
    }
    return {case: np.array([_cpu_ms(call) for call in calls]) for case, calls in cases.items()}


def _cpu_ms(call: Callable[[], object]) -> float:
    began = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - began) / 1e6


def _losses(data: str, exact: Bundle, fast: Bundle, asked: Question) -> list[BenchmarkRecord]:
    """Compare with all items: recall@100 of the index by scores, and the first ten of searches."""
    users, _ = exact.user_embeddings(asked.users, [asked.now_s] * len(asked.users))
    items = exact.item_vectors[exact.rows_of(asked.item_ids)]
    kinds: list[tuple[str, Asker, np.ndarray]] = [
        ("users", "user", users),
        ("queries", "query", asked.query_vectors),
        ("items", "query", items),
    ]
    recalls = {
        f"index, {name}": [recall(fast.vector_index, exact, vector, asker) for vector in vectors]
        for name, asker, vectors in kinds
    }
    records = [
        _record(data, case, f"recall@{_RECALL_AT}", [float(np.mean(found))], "share") for case, found in recalls.items()
    ]
    if exact.search_ranker is not None:  # scores of different candidates do not compare
        return records
    same = [_first_ten(exact, fast, asked, place) for place in range(len(asked.queries))]
    for name, shares in zip(("search", "search, personal"), zip(*same, strict=True), strict=True):
        records.append(_record(data, name, f"first {_K} of the full ranking", [float(np.mean(shares))], "share"))
    return records


def recall(
    index: VectorIndex, bundle: Bundle, vector: np.ndarray, asker: Asker = "query", *, k: int = _RECALL_AT
) -> float:
    """Return the share of the `k` nearest items that an index finds; an item as near as the last one is as good."""
    scores = bundle.item_vectors.scores(vector[None])[0]
    k = min(k, len(scores))
    found = scores[index.nearest(vector, k, asker=asker)[0]]
    return float((found >= np.partition(scores, -k)[-k] - _SAME).sum() / k)


def _first_ten(exact: Bundle, fast: Bundle, asked: Question, place: int) -> tuple[float, float]:
    """Return the share of the first ten that have a score of the full ranking's first ten: for anybody, for a user."""
    serving, query, vector = ServingConfig(), asked.queries[place], asked.query_vectors[place]
    user = asked.users[place % len(asked.users)]
    lexical = exact.lexical.scores(query)
    parts = {
        "dense": np.maximum(exact.item_vectors.scores(vector[None])[0], 0),
        "lexical": lexical / (lexical.max(initial=0.0) or 1.0),
    }
    full = weighted_mean(parts, exact.preprocessing.fusion.search.model_dump())
    rows = exact.rows_of(user.item_ids)
    taste_of = exact.user_vector(user, rows, asked.now_s // _MINUTE_S * _MINUTE_S)
    assert taste_of is not None  # noqa: S101 - the history is made of known items
    taste = np.maximum(exact.item_vectors.scores(taste_of[None])[0], 0)
    weight = serving.search_personalization
    shares = []
    for scores, features in ((full, None), ((full + weight * taste) / (1 + weight), user)):
        scores = np.where(exact.available, scores, -1)
        found = search(
            fast, query, k=_K, now_s=asked.now_s, serving=serving, query_vector=vector, features=features
        ).rows
        shares.append(float((scores[found] >= np.partition(scores, -_K)[-_K] - _SAME).mean()))
    return shares[0], shares[1]


def _record(data: str, case: str, metric: str, values: Sequence[float], unit: str) -> BenchmarkRecord:
    spread = len(values) > 1
    return BenchmarkRecord(
        bench=BENCH,
        data=data,
        case=case,
        metric=metric,
        value=float(np.median(values)),
        low=min(values) if spread else None,
        high=max(values) if spread else None,
        unit=unit,
        seeds=len(values),
    )
