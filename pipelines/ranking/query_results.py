"""What a query finds, whoever asks: the best by meaning and the best by words, and not a score more.

No item outside both lists can score more than the last of each list together, so it is known whether the first places
are those of the full ranking; where they may not be, the lists grow until they are.

Source: the bound is that of the threshold algorithm, Fagin, Lotem and Naor, Optimal aggregation algorithms for
middleware (2003).
"""

from dataclasses import dataclass

import numpy as np

from pipelines.inference.bundle import Bundle
from pipelines.ranking.fusion import Parts, weighted_mean
from pipelines.ranking.ordering import distinct_rows, top_rows
from pipelines.ranking.search_candidates import described_candidates, matching_rows
from pipelines.ranking.search_ranker import relative_scores, search_ranker_of
from pipelines.retrieval.lexical import QueryWords

_MOST_ADDED = 4_096
"""Items that are scored one by one for their words; where more may be among the best, all are compared."""


@dataclass(frozen=True)
class QueryResult:
    """Items of one query, best first."""

    rows: np.ndarray
    """int64 `(c,)`, row numbers in the bundle."""
    scores: np.ndarray
    """float32 `(c,)` in [0, 1]."""
    parts: Parts
    """What each generator said of them, float32 `(c,)` each, in [0, 1]."""
    sure: int
    """How many of the first places were asked for: those are the places of the full ranking."""
    fused: bool
    """Whether an item's score depends on nothing but the item and the query: what a filter leaves keeps its order."""


def query_result(
    bundle: Bundle,
    query: str,
    query_vector: np.ndarray,
    *,
    per_generator: int,
    sure: int,
    allowed: np.ndarray | None = None,
) -> QueryResult:
    """Find the items of a query.

    Args:
        query_vector: float32 `(dim,)`, L2 norm 1.
        per_generator: Items taken from each generator, where the bundle has no ranker of search.
        sure: First places that have to be those of the full ranking.
        allowed: bool `(n_items,)`; None allows all.
    """
    words = bundle.lexical.understood(query)
    lexical = bundle.lexical.scores_of(words.numbers)
    if bundle.search_ranker is not None:
        return _ranked(bundle, words, query_vector, lexical, sure, allowed)
    return _fused(bundle, query_vector, lexical, max(per_generator, sure), sure, allowed)


def _ranked(
    bundle: Bundle,
    words: QueryWords,
    query_vector: np.ndarray,
    lexical: np.ndarray,
    sure: int,
    allowed: np.ndarray | None,
) -> QueryResult:
    """Order by the bundle's ranker; it reads the places among the candidates, so these are always as many."""
    ranker, per_generator = search_ranker_of(bundle)
    wanted = max(per_generator, sure)
    nearest, _ = bundle.vector_index.nearest(query_vector, wanted, allowed)
    by_words = matching_rows(lexical, wanted, allowed)
    found = described_candidates(words, query_vector, bundle.lexical, bundle.item_vectors, lexical, nearest, by_words)
    scores = relative_scores(ranker, found)
    best = top_rows(scores, len(scores))
    rows = found.rows[best]
    parts = _parts(bundle, rows, query_vector, lexical, float(lexical.max(initial=0.0)) or 1.0)
    return QueryResult(rows, scores[best], parts, sure, fused=False)


def _fused(
    bundle: Bundle,
    query_vector: np.ndarray,
    lexical: np.ndarray,
    most: int,
    sure: int,
    allowed: np.ndarray | None,
) -> QueryResult:
    """Order by the weighted mean of meaning and words."""
    weights = dict(bundle.preprocessing.fusion.search)
    top = float(lexical.max(initial=0.0)) or 1.0
    nearest, cosines = bundle.vector_index.nearest(query_vector, most, allowed)
    by_words = matching_rows(lexical, most, allowed)
    rows = distinct_rows(nearest, by_words)
    parts = _parts(bundle, rows, query_vector, lexical, top)
    scores = weighted_mean(parts, weights)
    # What an item outside the lists can have at most.
    dense = max(float(cosines[-1]), 0.0) if len(nearest) == most else 0.0
    words = float(lexical[by_words[-1]]) / top if len(by_words) == most else 0.0
    total = sum(weights.values()) or 1.0
    enough = total * float(np.partition(scores, -sure)[-sure]) if sure <= len(scores) else 0.0
    missing = enough - weights["dense"] * dense
    if weights["lexical"] > 0 and weights["lexical"] * words > missing:
        more = np.flatnonzero(lexical > top * missing / weights["lexical"])
        more = more if allowed is None else more[allowed[more]]
        if len(more) > _MOST_ADDED:
            more = _best_of_all(bundle, query_vector, lexical / top, weights, 2 * most, allowed)
        rows = distinct_rows(rows, more)
        parts = _parts(bundle, rows, query_vector, lexical, top)
        scores = weighted_mean(parts, weights)
    best = top_rows(scores, 2 * most)
    return QueryResult(rows[best], scores[best], {name: part[best] for name, part in parts.items()}, sure, fused=True)


def _best_of_all(
    bundle: Bundle,
    query_vector: np.ndarray,
    lexical: np.ndarray,
    weights: dict[str, float],
    most: int,
    allowed: np.ndarray | None,
) -> np.ndarray:
    """Return the rows of the best of all items by scores that are off by the error of the int8 index.

    Args:
        lexical: float32 `(n_items,)`, relative to the best item.
    """
    dense = np.maximum(bundle.dense_index.scores(query_vector), 0.0)
    return top_rows(weighted_mean({"dense": dense, "lexical": lexical}, weights), most, allowed)


def _parts(bundle: Bundle, rows: np.ndarray, query_vector: np.ndarray, lexical: np.ndarray, top: float) -> Parts:
    """Return what the generators say of some items; lexical scores are relative to `top`."""
    cosines = bundle.item_vectors.products(rows, query_vector)
    return {"dense": np.maximum(cosines, np.float32(0)), "lexical": lexical[rows] / np.float32(top)}
