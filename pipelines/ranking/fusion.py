"""Scoring: the generators' scores become one score, and the weights are chosen on validation rows.

Each generator gives a score in [0, 1] to every item: cosine (below 0 counts as 0), item-to-item and BM25 relative to
the best item, popularity on a log scale. The fused score is their weighted mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.inference.bundle import ITEM_TO_ITEM, Bundle
from pipelines.inference.preprocessing import Fusion, RecommendFusion, UserFeatures
from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.cooccurrence import history_weights
from pipelines.retrieval.dense import dense_scores

_RATIOS = (0.0, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0)
_CANDIDATES = 200
_DEPTH = 100
"""Ranks that the choice of weights looks at."""
_BLOCK = 64
Parts = dict[str, np.ndarray]


@dataclass(frozen=True)
class RecommendationParts:
    """What each generator says of every item to `n` users."""

    scores: Parts
    """`dense`, `item_to_item` and `popularity`, float32 `(n, n_items)` in [0, 1]."""
    vectors: np.ndarray
    """float32 `(n, dim)`, the users as the user tower sees them, each row L2 norm 1; 0 where nothing is known."""
    known: np.ndarray
    """bool `(n,)`, true where the user has a known item in the history; elsewhere only popularity says anything."""


def weighted_mean(parts: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Fuse scores in [0, 1] into one in [0, 1]; generators of weight 0 cost nothing.

    Args:
        parts: Scores by generator, float32, all of one shape.
        weights: Weight of each generator, at least 0.
    """
    total = sum(weights[name] for name in parts) or 1.0
    shape = next(iter(parts.values())).shape
    fused = np.zeros(shape, np.float32)
    for name, scores in parts.items():
        if weights[name] > 0:
            fused += scores * np.float32(weights[name] / total)
    return fused


def recommendation_parts(
    bundle: Bundle, features: Sequence[UserFeatures], now_s: Sequence[float] | np.ndarray
) -> RecommendationParts:
    """Score every item for every user with each generator, exactly.

    Ask for at most a few hundred users at once: a part of 256 users and 92,000 items takes 90 MiB.
    """
    vectors, known = bundle.user_embeddings(features, now_s)
    scores = {
        "dense": np.maximum(dense_scores(vectors, bundle.item_vectors), 0.0),
        "item_to_item": np.stack([history_scores(bundle, user) for user in features]),
        "popularity": np.broadcast_to(bundle.popularity_score, (len(features), bundle.n_items)),
    }
    return RecommendationParts(scores, vectors, known)


def recommendation_scores(
    bundle: Bundle,
    features: Sequence[UserFeatures],
    now_s: Sequence[float] | np.ndarray,
    weights: RecommendFusion | None = None,
) -> np.ndarray:
    """Return the fused score of every item, float32 `(n, n_items)` in [0, 1], by the weights of the fusion alone.

    A user without a known item gets popularity alone, as in the service. See `recommendation_parts` for the size.
    """
    parts = recommendation_parts(bundle, features, now_s)
    scores = weighted_mean(parts.scores, (weights or bundle.preprocessing.fusion.recommend).model_dump())
    scores[~parts.known] = bundle.popularity_score
    return scores


def history_scores(bundle: Bundle, features: UserFeatures) -> np.ndarray:
    """Return the item-to-item scores of a history, float32 `(n_items,)` in [0, 1]."""
    rows = bundle.rows_of(features.item_ids)
    known = rows >= 0
    weights = history_weights(features.event_times, bundle.preprocessing.history_decay)
    scores = bundle.links.spread(ITEM_TO_ITEM, rows[known], weights[known])
    top = scores.max(initial=0.0)
    return scores / top if top > 0 else scores


def fit_fusion_weights(
    bundle: Bundle,
    features: Sequence[UserFeatures],
    now_s: Sequence[float] | np.ndarray,
    targets: Sequence[Sequence[str]],
    seen: Sequence[Sequence[str]],
    *,
    k: int = 10,
    max_rows: int = 3_000,
) -> tuple[Fusion, dict[str, float]]:
    """Choose the recommendation weights that rank new items best on validation rows, by recall@k and NDCG@100.

    Each counts relative to the best that any weights reach. Recall@k alone would follow the luck of a few rows: two
    trainings that differed by next to nothing got weights of .17 and .65 for popularity by recall@10. NDCG@100 hears
    ten times as many hits, but alone would give away the first ten for the hundred.

    Every ratio of item-to-item and popularity to dense on a geometric grid is tried, and each generator alone. Only
    the best 200 items of each generator and row take part, which gives the same top ten as all items would but for
    rows where an item is nowhere among the best 200.

    Args:
        features: User features of each row, as they were then.
        now_s: `(n,)` moment of each row, epoch seconds.
        targets: Items that each user bought for the first time then; rows without any are skipped.
        seen: Items that each user had met before; never ranked.
        max_rows: Rows used, spread evenly over those given.

    Returns:
        The bundle's fusion with new recommendation weights, and what was measured: `fusion_validation_recall@k`, and
        the same for each generator alone.
    """
    rows = [index for index in range(len(features)) if len(targets[index]) and len(features[index].item_ids)]
    if not rows:
        return bundle.preprocessing.fusion, {}
    picked = np.unique(np.linspace(0, len(rows) - 1, min(max_rows, len(rows))).round().astype(int))
    rows = [rows[index] for index in picked]
    names = tuple(RecommendFusion.model_fields)
    n_candidates = _CANDIDATES * len(names)
    values = np.zeros((len(rows), n_candidates, len(names)), np.float32)
    is_target = np.zeros((len(rows), n_candidates), bool)
    is_candidate = np.zeros((len(rows), n_candidates), bool)
    n_targets = np.zeros(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        parts = recommendation_parts(bundle, [features[i] for i in block], [float(now_s[i]) for i in block]).scores
        for offset, index in enumerate(block):
            seen_rows, target_rows = bundle.rows_of(seen[index]), bundle.rows_of(targets[index])
            allowed = bundle.available.copy()
            allowed[seen_rows[seen_rows >= 0]] = False
            best = [top_rows(parts[name][offset], _CANDIDATES, allowed) for name in names]
            candidates = np.unique(np.concatenate(best))
            at = start + offset
            is_candidate[at, : len(candidates)] = True
            is_target[at, : len(candidates)] = np.isin(candidates, target_rows)
            n_targets[at] = len(set(targets[index]))
            for column, name in enumerate(names):
                values[at, : len(candidates), column] = parts[name][offset, candidates]

    def measure(weights: np.ndarray) -> tuple[float, float]:
        """Return NDCG at `_DEPTH` and recall at `k`."""
        scores = np.where(is_candidate, values @ weights.astype(np.float32), -1.0)
        best = np.argpartition(-scores, min(_DEPTH, n_candidates - 1), axis=1)[:, :_DEPTH]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        hits = np.take_along_axis(is_target, np.take_along_axis(best, order, axis=1), axis=1)
        discounts = 1 / np.log2(np.arange(hits.shape[1]) + 2)
        ideal = np.cumsum(discounts)[np.minimum(n_targets.astype(int), hits.shape[1]) - 1]
        return float((hits @ discounts / ideal).mean()), float((hits[:, :k].sum(1) / n_targets).mean())

    default = np.array([getattr(bundle.preprocessing.fusion.recommend, name) for name in names])
    grid = [default, *np.eye(len(names))]
    grid += [np.array([1.0, near, popular]) for near in _RATIOS for popular in _RATIOS]
    ndcgs, recalls = zip(*(measure(weights) for weights in grid), strict=True)
    chosen = int(np.argmax(_relative(ndcgs) + _relative(recalls)))
    best_weights = grid[chosen] / grid[chosen].sum()
    fusion = Fusion(
        recommend=RecommendFusion(**dict(zip(names, map(float, best_weights), strict=True))),
        search=bundle.preprocessing.fusion.search,
    )
    measured = {f"fusion_validation_recall@{k}": recalls[chosen], f"fusion_validation_ndcg@{_DEPTH}": ndcgs[chosen]}
    measured |= {f"{name}_validation_recall@{k}": recalls[1 + index] for index, name in enumerate(names)}
    return fusion, measured


def _relative(values: Sequence[float]) -> np.ndarray:
    """Return values relative to the best one, float64, all 0 where none is positive."""
    best = max(values)
    return np.asarray(values) / best if best > 0 else np.zeros(len(values))
