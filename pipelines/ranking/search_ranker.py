"""Scoring a search by the learned ranker: its candidates by their scores, everything else behind them."""

from dataclasses import dataclass

import numpy as np

from pipelines.errors import BundleError
from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import RankerSettings
from pipelines.inference.ranker import Ranker
from pipelines.inference.ranker_features import SEARCH_FEATURES
from pipelines.ranking.search_candidates import SearchCandidates, search_candidates

RELEVANCE = "relevance"
"""The ranker's one output."""


@dataclass(frozen=True)
class RankedSearch:
    """The candidates of one query."""

    rows: np.ndarray
    """int64 `(c,)`, rising."""
    scores: np.ndarray
    """float32 `(c,)` in [0, 1]."""


def search_ranker_settings(per_generator: int) -> RankerSettings:
    """Return what a bundle has to know of a ranker that this version learned."""
    return RankerSettings(
        features=SEARCH_FEATURES,
        heads=(RELEVANCE,),
        head_weights={RELEVANCE: 1.0},
        per_generator=per_generator,
    )


def ranked_search(
    bundle: Bundle,
    query: str,
    query_vector: np.ndarray,
    dense_scores: np.ndarray,
    *,
    allowed: np.ndarray | None = None,
) -> RankedSearch:
    """Find and score the candidates of a query among all items.

    Args: as for `search_candidates`.

    Raises:
        BundleError: the bundle has no ranker of search.
    """
    ranker, per_generator = search_ranker_of(bundle)
    found = search_candidates(
        query,
        query_vector,
        bundle.lexical,
        bundle.item_vectors,
        dense_scores,
        allowed=allowed,
        per_generator=per_generator,
    )
    return RankedSearch(found.rows, relative_scores(ranker, found))


def search_ranker_of(bundle: Bundle) -> tuple[Ranker, int]:
    """Return the bundle's ranker of search, and how many candidates it takes from each generator.

    Raises:
        BundleError: the bundle has none.
    """
    settings = bundle.preprocessing.search_ranker
    if bundle.search_ranker is None or settings is None:
        raise BundleError(f"The bundle {bundle.bundle_id} has no ranker of search: use the weights of its fusion.")
    return bundle.search_ranker, settings.per_generator


def relative_scores(ranker: Ranker, found: SearchCandidates) -> np.ndarray:
    """Return the score of each candidate, float32 `(c,)` in [0, 1]: 1 for the best one, 0 for the worst.

    A listwise loss says nothing about scores of different queries, so only the order and the distances count.
    """
    if len(found.rows) == 0:
        return np.empty(0, np.float32)
    logits = ranker.logits(found.features)[:, 0]
    lowest, highest = float(logits.min()), float(logits.max())
    if highest == lowest:
        return np.ones(len(logits), np.float32)
    relative: np.ndarray = (logits - lowest) / (highest - lowest)
    return relative


def behind(fused: np.ndarray, rows: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """Return a full ranking, float32 `(n_items,)`: candidates by the ranker, in [1, 2], all others as they were.

    Args:
        fused: float32 `(n_items,)` in [0, 1].
        rows: int64 `(c,)`, the candidates.
        ranked: float32 `(c,)` in [0, 1].
    """
    scores = fused.copy()
    scores[rows] = 1 + ranked
    return scores
