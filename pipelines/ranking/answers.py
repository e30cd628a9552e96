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
from pipelines.ranking.candidates import moment_of
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.ranking.fusion import Parts, history_scores, weighted_mean
from pipelines.ranking.ordering import first_allowed, top_rows
from pipelines.ranking.prepared import (
    Prepared,
    PreparedUser,
    RankedItems,
    in_order,
    prepared_user,
    ranked_candidates,
    ranked_items,
)
from pipelines.ranking.query_results import QueryResult, query_result

_NEIGHBORS = 50
"""Items like an item that are found at once; most ask for fewer."""
_SURE = 20
"""First places of a search that have to be those of the full ranking, if no more are asked for."""


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
    prepared: Prepared | None = None,
) -> Ranking:
    """Rank items for a user.

    Args:
        features: What is known of the user; None for a stranger, who gets popular items.
        now_s: The moment of the request, epoch seconds; counts as `moment_of` says.
        seed_items: Items of the moment (a basket, the page that is open): they count as viewed just now and are not
            recommended themselves.
        prepared: What is remembered for this bundle; None remembers nothing.
    """
    now_s = moment_of(now_s, features)
    if seed_items:
        features, prepared = with_seeds(features, seed_items, now_s), None
    user = prepared_user(bundle, features, now_s, prepared) if features is not None else None
    if user is None:
        rows = first_allowed(bundle.by_popularity, k, allowed_items(bundle, filters))
        scores = bundle.popularity_score[rows]
        return Ranking(rows, scores, {"popularity": scores}, personalized=False)
    if bundle.ranker is not None and not seed_items and filters is None:
        return _first(ranked_items(bundle, user, now_s, serving, prepared), k)
    excluded = [
        *user.recently_bought(now_s, serving.exclude_purchased_days),
        *(row for row in map(bundle.row_of, seed_items) if row is not None),
    ]
    allowed = allowed_items(bundle, filters, excluded)
    if bundle.ranker is not None:
        return _first(in_order(bundle, ranked_candidates(bundle, user, now_s, allowed), now_s), k)
    return _fused(bundle, user, k, serving, allowed)


def prepare(
    bundle: Bundle,
    features: UserFeatures,
    *,
    now_s: float,
    serving: ServingConfig,
    prepared: Prepared,
    with_candidates: bool = True,
) -> None:
    """Remember what the next answers to a user need.

    Args:
        now_s: The present, epoch seconds.
        with_candidates: Whether recommendations will be asked for; searches need less.
    """
    now_s = moment_of(now_s, features)
    user = prepared_user(bundle, features, now_s, prepared)
    if user is not None and with_candidates and bundle.ranker is not None:
        ranked_items(bundle, user, now_s, serving, prepared)


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
    prepared: Prepared | None = None,
) -> Ranking:
    """Rank items for a query, with a nudge towards the user's taste.

    Args:
        query_vector: float32 `(dim,)`, the query's embedding where the caller has it already.
        features: What is known of the user; None for nobody.
        prepared: What is remembered for this bundle; None remembers nothing.
    """
    user = None
    if features is not None and serving.search_personalization > 0:
        user = prepared_user(bundle, features, moment_of(now_s, features), prepared)
    found = prepared.query(bundle, query, query_vector) if prepared is not None else None
    allowed = None if filters is None else allowed_items(bundle, filters)
    if found is not None and allowed is not None:
        found = _left(found, allowed, k) if user is None else None
    if found is None or found.sure < k:
        if query_vector is None:
            query_vector = bundle.encode_queries([query])[0]
        found = query_result(
            bundle,
            query,
            query_vector,
            per_generator=serving.candidates // 2,
            sure=max(k, _SURE),
            allowed=bundle.shown if allowed is None else allowed,
        )
        if prepared is not None and allowed is None:
            prepared.keep_query(query, found)
    if user is None:
        return _first(found, k, personalized=False)
    taste = np.maximum(bundle.item_vectors.products(found.rows, user.vector), np.float32(0))
    weight = serving.search_personalization
    scores = (found.scores + np.float32(weight) * taste) / np.float32(1 + weight)
    best = np.argsort(-scores, kind="stable")[:k]
    parts = {name: part[best] for name, part in {**found.parts, "user": taste}.items()}
    return Ranking(found.rows[best], scores[best], parts, personalized=True)


def similar(
    bundle: Bundle,
    item_id: str,
    *,
    k: int,
    serving: ServingConfig,  # noqa: ARG001 - all three are asked alike
    kind: Literal["similar", "goes_with"] = "similar",
    filters: Filters | None = None,
    prepared: Prepared | None = None,
) -> Ranking:
    """Rank items that are like an item, or that are bought with it (fewer come back if fewer were).

    Args:
        prepared: What is remembered for this bundle; None remembers nothing.

    Raises:
        DataError: the item is unknown.
    """
    row = bundle.row_of(item_id)
    if row is None:
        raise DataError(
            f"The item {item_id!r} is unknown: ask for one of the {bundle.n_items:,} items of the catalogue."
        )
    if kind == "similar":
        rows, scores = _neighbors(bundle, row, k, filters, prepared)
        return Ranking(rows, scores, {"dense": scores}, personalized=False)
    allowed = allowed_items(bundle, filters, [row])
    ids, scores = bundle.links.of(ITEM_TO_ITEM, row)
    keep = allowed[ids]
    rows, values = ids[keep][:k].astype(np.int64), scores[keep][:k]
    return Ranking(rows, values, {"item_to_item": values}, personalized=False)


def _neighbors(
    bundle: Bundle, row: int, k: int, filters: Filters | None, prepared: Prepared | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the items nearest to an item, rows and scores, best first."""
    kept = prepared.neighbors(bundle, row) if prepared is not None and filters is None and k <= _NEIGHBORS else None
    if kept is None:
        wanted = max(k, _NEIGHBORS) if filters is None else k
        allowed = allowed_items(bundle, filters, [row])
        rows, cosines = bundle.vector_index.nearest(bundle.item_vectors[row], wanted, allowed)
        kept = rows, np.maximum(cosines, np.float32(0))
        if prepared is not None and filters is None:
            prepared.keep_neighbors(row, kept)
    return kept[0][:k], kept[1][:k]


def _first(found: RankedItems | QueryResult, k: int, *, personalized: bool = True) -> Ranking:
    """Return the first `k` of what is in order already."""
    parts = {name: part[:k] for name, part in found.parts.items()}
    return Ranking(found.rows[:k], found.scores[:k], parts, personalized)


def _left(found: QueryResult, allowed: np.ndarray, k: int) -> QueryResult | None:
    """Return what a filter leaves of a query's items; None where that may not be the best `k` of what it allows."""
    if not found.fused or found.sure < k:
        return None
    kept = np.flatnonzero(allowed[found.rows[: found.sure]])
    if len(kept) < k:
        return None
    parts = {name: part[kept] for name, part in found.parts.items()}
    return QueryResult(found.rows[kept], found.scores[kept], parts, len(kept), fused=True)


def _fused(bundle: Bundle, user: PreparedUser, k: int, serving: ServingConfig, allowed: np.ndarray) -> Ranking:
    """Order by the weights of the fusion: the best by the fast scores of all items, then exactly."""
    weights = bundle.preprocessing.fusion.recommend.model_dump()
    parts = {
        "dense": np.maximum(bundle.dense_index.scores(user.vector), 0.0),
        "item_to_item": history_scores(bundle, user.features),
        "popularity": bundle.popularity_score,
    }
    rows = np.sort(top_rows(weighted_mean(parts, weights), max(serving.candidates, k), allowed))
    of_rows = {name: scores[rows] for name, scores in parts.items()}
    of_rows["dense"] = np.maximum(bundle.item_vectors.products(rows, user.vector), 0.0)
    scores = weighted_mean(of_rows, weights)
    best = top_rows(scores, k)
    return Ranking(rows[best], scores[best], {name: part[best] for name, part in of_rows.items()}, personalized=True)


def with_seeds(features: UserFeatures | None, seed_items: Sequence[str], now_s: float) -> UserFeatures:
    """Return features with seed items as the newest events."""
    seeds = list(seed_items)
    seen_s = max([int(now_s), *(features.event_times[-1:] if features else ())])  # a clock may be ahead
    return _WithSeeds(
        item_ids=[*(features.item_ids if features else ()), *seeds],
        event_types=[*(features.event_types if features else ()), *("view" for _ in seeds)],
        event_times=[*(features.event_times if features else ()), *(seen_s for _ in seeds)],
        activity=dict(features.activity) if features else {},
    )
