"""How long one answer takes through the bundle, one request after the other on one thread."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from pipelines.config import ServingConfig
from pipelines.evaluation.rows import EvaluationRows
from pipelines.inference.bundle import Bundle
from pipelines.ranking.answers import recommend, search

_WARM_UP = 5
_K = 10


def time_calls(calls: Sequence[Callable[[], object]], warm_up: int = _WARM_UP) -> np.ndarray:
    """Return the milliseconds that each call took, float64 `(n,)`; the first few are made once before, untimed."""
    for call in calls[:warm_up]:
        call()
    times = np.empty(len(calls))
    for place, call in enumerate(calls):
        started = time.perf_counter()
        call()
        times[place] = 1000 * (time.perf_counter() - started)
    return times


def bundle_latency_ms(
    bundle: Bundle, rows: EvaluationRows, queries: Sequence[str], serving: ServingConfig, requests: int
) -> dict[str, float]:
    """Time recommendations for the users of `rows` and searches for `queries`, without HTTP and without Feast.

    Returns:
        `recommend_p50`, `recommend_p99`, `search_p50`, `search_p99`, milliseconds; a kind that was not asked for is
        absent.
    """
    places = [place % len(rows) for place in range(requests)]
    recommendations = [
        partial(recommend, bundle, rows.features[place], k=_K, now_s=float(rows.now_s[place]), serving=serving)
        for place in places
    ]
    searches = [
        partial(search, bundle, query, k=_K, now_s=float(rows.now_s[0]), serving=serving)
        for query in queries[:requests]
    ]
    found: dict[str, float] = {}
    for name, calls in (("recommend", recommendations), ("search", searches)):
        if calls:
            p50, p99 = np.percentile(time_calls(calls), (50, 99))
            found |= {f"{name}_p50": float(p50), f"{name}_p99": float(p99)}
    return found
