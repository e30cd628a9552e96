"""How good and how fast a query tower is: searches over the whole catalogue, and one query after the other on a thread.

The reference is the full float32 model in torch with exact products. A tower is measured as it is served: its vector
goes through the int8 index, and the best candidates are scored again with the int8 vectors of the items.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.evaluation.graded import graded_ndcg
from pipelines.inference.sessions import open_session
from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.dense import INDEX, DenseIndex, ItemVectors

CANDIDATES = 200
"""Items that the index gives and that are scored again."""
_K = 10
_WARM_UP = 3
_TURN = 20
"""Queries that one encoder reads before it is the next one's turn."""
QueryEncoder = Callable[[Sequence[str]], np.ndarray]
"""Turns `n` queries into float32 `(n, dim)`, each row L2 norm 1."""


@dataclass(frozen=True)
class HeldOutQueries:
    """`n` queries that nothing was trained on, and what answers them."""

    queries: list[str]
    items: list[np.ndarray]
    """int64, rows of the judged items of each query."""
    gains: list[np.ndarray]
    """float64, at least 0."""

    def __len__(self) -> int:
        return len(self.queries)

    def at(self, places: Sequence[int] | np.ndarray) -> "HeldOutQueries":
        """Return some of the queries."""
        return HeldOutQueries(
            [self.queries[place] for place in places],
            [self.items[place] for place in places],
            [self.gains[place] for place in places],
        )


@dataclass(frozen=True)
class Quality:
    """What a search found, query by query."""

    ndcg: np.ndarray
    """float64 `(n,)`, NDCG@10, NaN where no judged item has a gain."""
    overlap: np.ndarray
    """float64 `(n,)`, share of the reference's first ten that are among its own."""


@dataclass(frozen=True)
class Speed:
    """What a query costs on one thread."""

    encode_ms: float
    """Median from text to vector, tokenizer included."""
    cpu_ms: float
    """CPU time of a whole dense search: text to vector, index, scoring the candidates again."""


class SearchPath:
    """The dense search of a bundle: index, candidates, exact scores."""

    def __init__(self, item_vectors: np.ndarray, folder: Path) -> None:
        """Write float `(n_items, dim)` to the folder as a bundle does, and open it."""
        folder.mkdir(parents=True, exist_ok=True)
        ItemVectors.quantized(item_vectors).save(folder)
        self.vectors = ItemVectors.load(folder)
        self._index = DenseIndex(open_session(folder / INDEX, "cpu"))

    def first(self, vector: np.ndarray, k: int = _K) -> np.ndarray:
        """Return the rows of the best `k` items, best first, int64."""
        candidates = np.sort(top_rows(self._index.scores(vector), CANDIDATES))
        return candidates[top_rows(self.vectors[candidates] @ vector, k)]


def exact_first(vectors: np.ndarray, item_vectors: np.ndarray, k: int = _K) -> list[np.ndarray]:
    """Return the rows of the best `k` items of each vector by exact products, best first."""
    found = []
    for start in range(0, len(vectors), 64):
        found += [top_rows(scores, k) for scores in vectors[start : start + 64] @ item_vectors.T]
    return found


def quality(found: Sequence[np.ndarray], queries: HeldOutQueries, reference: Sequence[np.ndarray]) -> Quality:
    """Return what rankings are worth.

    Args:
        found: Rows of the first ten items of each query, best first.
        reference: The same by the full model.
    """
    return Quality(
        ndcg=np.array([_ndcg(*one) for one in zip(found, queries.items, queries.gains, strict=True)]),
        overlap=np.array([np.isin(wanted, own).mean() for wanted, own in zip(reference, found, strict=True)]),
    )


def share_kept(ndcg: np.ndarray, reference: np.ndarray, *, samples: int, seed: int) -> tuple[float, float, float]:
    """Return the mean NDCG relative to the reference's, and the ends of its 95 % interval over queries."""
    counted = np.flatnonzero(np.isfinite(ndcg) & np.isfinite(reference))
    if len(counted) == 0 or reference[counted].sum() == 0:
        return float("nan"), float("nan"), float("nan")
    own, other = ndcg[counted], reference[counted]
    rows = np.random.default_rng(seed).integers(0, len(counted), (samples, len(counted)))
    totals = other[rows].sum(axis=1)
    shares = own[rows].sum(axis=1)[totals > 0] / totals[totals > 0]
    low, high = np.percentile(shares, (2.5, 97.5))
    return float(own.sum() / other.sum()), float(low), float(high)


def time_encoders(encoders: Mapping[str, QueryEncoder], queries: Sequence[str], rounds: int) -> dict[str, float]:
    """Return the median milliseconds from one query to its vector, by encoder.

    Encoders take turns every few queries, so that whatever else the machine does hits all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for encode in encoders.values():
        for query in queries[:_WARM_UP]:
            encode([query])
    for _ in range(rounds):
        for start in range(0, len(queries), _TURN):
            for name, encode in encoders.items():
                for query in queries[start : start + _TURN]:
                    began = time.perf_counter()
                    encode([query])
                    times[name].append(1e3 * (time.perf_counter() - began))
    return {name: float(np.median(found)) for name, found in times.items()}


def request_cpu_ms(encode: QueryEncoder, path: SearchPath, queries: Sequence[str]) -> float:
    """Return the CPU milliseconds of a whole dense search, the mean over the queries."""
    path.first(encode(queries[:1])[0])
    began = time.process_time()
    for query in queries:
        path.first(encode([query])[0])
    return 1e3 * (time.process_time() - began) / len(queries)


def _ndcg(found: np.ndarray, items: np.ndarray, gains: np.ndarray) -> float:
    places = {int(row): place for place, row in enumerate(found, start=1)}
    ranks = np.array([places.get(int(item), len(found) + 1 + _K) for item in items], np.int64)
    return graded_ndcg(ranks, gains)
