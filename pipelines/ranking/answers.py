"""The answers of the service: retrieval → filtering → scoring → ordering. Evaluation asks the same functions.

Requests take `candidates` items from the int8 index and score them exactly, so that an answer is the top of the
full ranking of `recommendation_scores` without its cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.config import ServingConfig
from pipelines.errors import DataError
from pipelines.inference.bundle import ITEM_TO_ITEM, Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.ranking.filtering import Filters, allowed_items, recently_purchased
from pipelines.ranking.fusion import Parts, history_scores, history_scores_of, weighted_mean
from pipelines.ranking.learned import rank_candidates
from pipelines.ranking.ordering import top_rows
from pipelines.ranking.search_ranker import RankedSearch, ranked_search


@dataclass(frozen=True)
class Ranking:
    """Items best first."""

    rows: np.ndarray
    """int64 `(<=k,)`, row numbers in the bundle."""
    scores: np.ndarray
    """float32 `(<=k,)` in [0, 1]."""
    parts: Parts
    """What each generator said of these items, float32 `(<=k,)` each, in [0, 1]."""
    personalized: bool
    """Whether the user's history had a say."""


@dataclass(frozen=True)
class _WithSeeds:
    """User features with seed items as the newest events."""

    item_ids: list[str]
    event_types: list[str]
    event_times: list[int]
    activity: dict[str, float | None]


def recommend(
    bundle: Bundle,
    features: UserFeatures | None,
    *,
    k: int,
    now_s: float,
    serving: ServingConfig,
    seed_items: Sequence[str] = (),
    filters: Filters | None = None,
) -> Ranking:
    """Rank items for a user.

    Args:
        features: What is known of the user; None for a stranger, who gets popular items.
        now_s: The moment of the request, epoch seconds.
        seed_items: Items of the moment (a basket, the page that is open): they count as viewed just now and are not
            recommended themselves.
    """
    if seed_items:
        features = with_seeds(features, seed_items, now_s)
    embedded = bundle.user_embedding(features, now_s) if features is not None else None
    if features is None or embedded is None:
        rows = top_rows(bundle.popularity_score, k, allowed_items(bundle, filters))
        scores = bundle.popularity_score[rows]
        return Ranking(rows, scores, {"popularity": scores}, personalized=False)
    vector, _ = embedded
    excluded = [
        *recently_purchased(bundle, features, now_s, serving.exclude_purchased_days),
        *(row for row in map(bundle.row_of, seed_items) if row is not None),
    ]
    allowed = allowed_items(bundle, filters, excluded)
    if bundle.ranker is not None:
        rows, scores = rank_candidates(bundle, features, vector, now_s, allowed)
        best = top_rows(scores, k)
        shown = rows[best]
        of_shown = {
            "dense": np.maximum(bundle.item_vectors[shown] @ vector, 0.0),
            "item_to_item": history_scores_of(bundle, features, shown),
            "popularity": bundle.popularity_score[shown],
        }
        return Ranking(shown, scores[best], of_shown, personalized=True)
    parts = {
        "dense": np.maximum(bundle.dense_index.scores(vector), 0.0),
        "item_to_item": history_scores(bundle, features),
        "popularity": bundle.popularity_score,
    }
    weights = bundle.preprocessing.fusion.recommend.model_dump()
    return _finish(bundle, parts, weights, {"dense": vector}, k, serving, allowed, True)


def search(
    bundle: Bundle,
    query: str,
    *,
    k: int,
    now_s: float,
    serving: ServingConfig,
    query_vector: np.ndarray | None = None,
    features: UserFeatures | None = None,
    filters: Filters | None = None,
) -> Ranking:
    """Rank items for a query, with a nudge towards the user's taste.

    Args:
        query_vector: float32 `(dim,)`, the query's embedding where the caller has it already.
        features: What is known of the user; None for nobody.
    """
    if query_vector is None:
        query_vector = bundle.encode_queries([query])[0]
    lexical = bundle.lexical.scores(query)
    top = lexical.max(initial=0.0)
    parts = {
        "dense": np.maximum(bundle.dense_index.scores(query_vector), 0.0),
        "lexical": lexical / top if top > 0 else lexical,
    }
    weights = bundle.preprocessing.fusion.search.model_dump()
    exact = {"dense": query_vector}
    if features is not None and serving.search_personalization > 0:
        embedded = bundle.user_embedding(features, now_s)
        if embedded is not None:
            parts["user"] = np.maximum(bundle.dense_index.scores(embedded[0]), 0.0)
            weights["user"] = serving.search_personalization * (weights["dense"] + weights["lexical"])
            exact["user"] = embedded[0]
    allowed = allowed_items(bundle, filters)
    if bundle.search_ranker is not None:
        found = ranked_search(
            bundle, query, query_vector, parts["dense"], lexical_scores=lexical, allowed=allowed, at_least=k
        )
        return _order(bundle, found, parts, exact, serving.search_personalization, k)
    return _finish(bundle, parts, weights, exact, k, serving, allowed, "user" in parts)


def similar(
    bundle: Bundle,
    item_id: str,
    *,
    k: int,
    serving: ServingConfig,
    kind: Literal["similar", "goes_with"] = "similar",
    filters: Filters | None = None,
) -> Ranking:
    """Rank items that are like an item, or that are bought with it (fewer come back if fewer were).

    Raises:
        DataError: the item is unknown.
    """
    row = bundle.row_of(item_id)
    if row is None:
        raise DataError(
            f"The item {item_id!r} is unknown: ask for one of the {bundle.n_items:,} items of the catalogue."
        )
    allowed = allowed_items(bundle, filters, [row])
    if kind == "similar":
        vector = bundle.item_vectors[row]
        parts = {"dense": np.maximum(bundle.dense_index.scores(vector), 0.0)}
        return _finish(bundle, parts, {"dense": 1.0}, {"dense": vector}, k, serving, allowed, False)
    ids, scores = bundle.neighbors[ITEM_TO_ITEM].of(row)
    keep = allowed[ids]
    rows, values = ids[keep][:k].astype(np.int64), scores[keep][:k]
    return Ranking(rows, values, {"item_to_item": values}, personalized=False)


def _finish(
    bundle: Bundle,
    parts: Parts,
    weights: dict[str, float],
    exact: dict[str, np.ndarray],
    k: int,
    serving: ServingConfig,
    allowed: np.ndarray,
    personalized: bool,
) -> Ranking:
    """Take the best candidates by the fast scores, score them exactly, order them.

    Args:
        parts: Scores of every item by generator, float32 `(n_items,)`.
        exact: For generators that come from the int8 index: the vector, float32 `(dim,)`.
    """
    candidates = np.sort(top_rows(weighted_mean(parts, weights), max(serving.candidates, k), allowed))
    of_candidates = {
        name: np.maximum(bundle.item_vectors[candidates] @ exact[name], 0.0) if name in exact else scores[candidates]
        for name, scores in parts.items()
    }
    scores = weighted_mean(of_candidates, weights)
    best = top_rows(scores, k)
    return Ranking(
        candidates[best], scores[best], {name: part[best] for name, part in of_candidates.items()}, personalized
    )


def _order(
    bundle: Bundle, found: RankedSearch, parts: Parts, exact: dict[str, np.ndarray], personalization: float, k: int
) -> Ranking:
    """Order what the search ranker scored; the user's taste, where it is known, has its weight beside the ranker."""
    of_candidates = {"ranker": found.scores}
    if "user" in exact:
        of_candidates["user"] = np.maximum(bundle.item_vectors[found.rows] @ exact["user"], 0.0)
    scores = weighted_mean(of_candidates, {"ranker": 1.0, "user": personalization})
    best = top_rows(scores, k)
    rows = found.rows[best]
    return Ranking(rows, scores[best], {name: part[rows] for name, part in parts.items()}, "user" in exact)


def with_seeds(features: UserFeatures | None, seed_items: Sequence[str], now_s: float) -> UserFeatures:
    """Return features with seed items as the newest events."""
    seeds = list(seed_items)
    return _WithSeeds(
        item_ids=[*(features.item_ids if features else ()), *seeds],
        event_types=[*(features.event_types if features else ()), *("view" for _ in seeds)],
        event_times=[*(features.event_times if features else ()), *(int(now_s) for _ in seeds)],
        activity=dict(features.activity) if features else {},
    )
