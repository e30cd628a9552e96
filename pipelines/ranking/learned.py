"""Scoring by the learned ranker: candidates by its score, everything else behind them."""

from collections.abc import Sequence

import numpy as np

from pipelines.errors import BundleError
from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.inference.ranker import Ranker
from pipelines.ranking.candidates import recommend_candidates
from pipelines.ranking.fusion import RecommendationParts, recommendation_parts, weighted_mean


def rank_candidates(
    bundle: Bundle,
    features: UserFeatures,
    user_vector: np.ndarray,
    now_s: float,
    allowed: np.ndarray,
    *,
    dense_scores: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find and score the candidates of one user: int64 `(c,)` row numbers, rising, and float32 `(c,)` in (0, 1).

    Args: as for `recommend_candidates`.

    Raises:
        BundleError: the bundle has no ranker.
    """
    ranker, per_generator = ranker_of(bundle)
    found = recommend_candidates(
        bundle,
        features,
        user_vector,
        now_s,
        allowed,
        dense_scores=dense_scores,
        per_generator=per_generator,
    )
    return found.rows, ranker.scores(found.features)


def ranker_of(bundle: Bundle) -> tuple[Ranker, int]:
    """Return the bundle's ranker of recommendations, and how many candidates it takes from each generator.

    Raises:
        BundleError: the bundle has none.
    """
    settings = bundle.preprocessing.ranker
    if bundle.ranker is None or settings is None:
        raise BundleError(f"The bundle {bundle.bundle_id} has no ranker: use the weights of its fusion.")
    return bundle.ranker, settings.per_generator


def served_scores(bundle: Bundle, features: Sequence[UserFeatures], now_s: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the full ranking behind `recommend`, float32 `(n, n_items)`; see `scores_of_parts`."""
    return scores_of_parts(bundle, features, now_s, recommendation_parts(bundle, features, now_s))


def scores_of_parts(
    bundle: Bundle,
    features: Sequence[UserFeatures],
    now_s: Sequence[float] | np.ndarray,
    parts: RecommendationParts,
) -> np.ndarray:
    """Return the full ranking behind `recommend`, float32 `(n, n_items)`, from what `recommendation_parts` gave.

    Candidates have scores in (0, 1); all other items stand behind them in [-1, 0], in the order of the fusion. A user
    without a known item gets popularity alone. Without a ranker it is the fusion for everything.
    """
    scores = weighted_mean(parts.scores, bundle.preprocessing.fusion.recommend.model_dump())
    scores[~parts.known] = bundle.popularity_score
    if bundle.ranker is None:
        return scores
    for place in np.flatnonzero(parts.known).tolist():
        rows, ranked = rank_candidates(
            bundle,
            features[place],
            parts.vectors[place],
            float(now_s[place]),
            bundle.available,
            dense_scores=parts.scores["dense"][place],
        )
        scores[place] -= 1.0
        scores[place, rows] = ranked
    return scores
