"""How long one answer takes through the bundle, one request after the other on one thread."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipelines.config import ServingConfig
from pipelines.evaluation.rows import EvaluationRows
from pipelines.inference.bundle import Bundle
from pipelines.ranking.answers import recommend, search

RECOMMEND, SEARCH = "recommend", "search"
PERCENTILES = (50, 95, 99)
_WARM_UP = 5
_K = 10

Calls = Sequence[Callable[[], object]]


@dataclass(frozen=True)
class AnswerTimes:
    """Milliseconds of each answer of one bundle."""

    by_kind: Mapping[str, np.ndarray]
    """`recommend` and `search` -> float64 `(n,)`; a kind that was not asked for is absent."""

    def percentiles(self) -> dict[str, float]:
        """Return `recommend_p50`, `recommend_p95`, `recommend_p99` and the same of `search`, milliseconds."""
        return {
            f"{kind}_p{percent}": float(value)
            for kind, times in self.by_kind.items()
            for percent, value in zip(PERCENTILES, np.percentile(times, PERCENTILES), strict=True)
        }


def time_calls(calls: Calls, warm_up: int = _WARM_UP) -> np.ndarray:
    """Return the milliseconds that each call took, float64 `(n,)`; the first few are made once before, untimed."""
    return time_calls_in_turn([calls], warm_up)[0]


def time_calls_in_turn(sides: Sequence[Calls], warm_up: int = _WARM_UP) -> np.ndarray:
    """Return the milliseconds of each call of each side, float64 `(n_sides, n)`.

    The sides take turns call by call, so that what else the machine does slows all of them.

    Args:
        sides: As many calls each.
    """
    for calls in sides:
        for call in calls[:warm_up]:
            call()
    times = np.empty((len(sides), len(sides[0])))
    for place in range(times.shape[1]):
        for side, calls in enumerate(sides):
            started = time.perf_counter()
            calls[place]()
            times[side, place] = 1000 * (time.perf_counter() - started)
    return times


def answer_times(
    bundles: Mapping[str, Bundle],
    rows: EvaluationRows,
    queries: Sequence[str],
    serving: ServingConfig,
    requests: int,
) -> dict[str, AnswerTimes]:
    """Time recommendations for the users of `rows` and searches for `queries`, without HTTP and without Feast.

    Args:
        bundles: Case -> open bundle; they take turns.
    """
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in bundles}
    for kind, calls_of in (
        (RECOMMEND, partial(_recommendations, rows=rows, serving=serving, requests=requests)),
        (SEARCH, partial(_searches, rows=rows, queries=queries, serving=serving, requests=requests)),
    ):
        sides = [calls_of(bundle) for bundle in bundles.values()]
        if sides[0]:
            for name, times in zip(bundles, time_calls_in_turn(sides), strict=True):
                found[name][kind] = times
    return {name: AnswerTimes(times) for name, times in found.items()}


def _recommendations(
    bundle: Bundle, rows: EvaluationRows, serving: ServingConfig, requests: int
) -> list[Callable[[], object]]:
    places = [place % len(rows) for place in range(requests)]
    return [
        partial(recommend, bundle, rows.features[place], k=_K, now_s=float(rows.now_s[place]), serving=serving)
        for place in places
    ]


def _searches(
    bundle: Bundle, rows: EvaluationRows, queries: Sequence[str], serving: ServingConfig, requests: int
) -> list[Callable[[], object]]:
    return [
        partial(search, bundle, query, k=_K, now_s=float(rows.now_s[0]), serving=serving)
        for query in queries[:requests]
    ]
