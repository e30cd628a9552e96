"""What one bundle finds for a request, and what it falls back to where its model fails."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bentos.recommender.live_bundle import Serving
from bentos.recommender.requests import AnswerBody, RecommendBody, RequestError, SearchBody, SimilarBody
from bentos.recommender.stopwatch import Stopwatch
from bentos.recommender.user_states import FeatureAnswer
from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.ranking.answers import Ranking, recommend, search, similar
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.ranking.ordering import top_rows

_logger = logging.getLogger("headrace.serving")


@dataclass(frozen=True)
class Found:
    """What a bundle found for a request."""

    serving: Serving
    ranking: Ranking
    problem: str | None = None
    """Why it is not what the model says."""
    latency_ms: float = math.nan

    @property
    def item_ids(self) -> list[str]:
        """Ids of the items, best first."""
        known = self.serving.bundle.item_ids
        return [known[row] for row in self.ranking.rows.tolist()]


Find = Callable[[Serving], Found]


class Finder:
    """Asks a bundle: the same question can be put to several."""

    def __init__(self, settings: ServingConfig) -> None:
        self._settings = settings

    def warm_up(self, serving: Serving, now_s: float) -> None:
        """Take every path once."""
        bundle = serving.bundle
        options: dict[str, Any] = {"k": 1, "now_s": now_s, "serving": self._settings}
        recommend(bundle, None, seed_items=bundle.item_ids[:1], **options)
        search(bundle, bundle.titles[0], **options)

    def search(
        self,
        serving: Serving,
        query: str,
        *,
        k: int,
        body: SearchBody,
        user: FeatureAnswer,
        now_s: float,
        watch: Stopwatch,
    ) -> Found:
        """Find items for a query; by words alone where the model fails."""
        try:
            vector = serving.queries.get(query)
            if vector is None:
                vector = serving.bundle.encode_queries([query])[0]
                serving.queries.put(query, vector)
            watch.lap("encode")
            ranking = search(
                serving.bundle,
                query,
                k=k,
                now_s=now_s,
                serving=self._settings,
                query_vector=vector,
                features=user.features,
                filters=filters_of(body),
            )
            return Found(serving, _finite(ranking))
        except Exception:
            _logger.exception("Search falls back to words alone")
            words = _words_alone(serving, query, k, body)
            return Found(serving, words, "the model failed, words alone were searched")

    def recommend(self, serving: Serving, *, k: int, body: RecommendBody, user: FeatureAnswer, now_s: float) -> Found:
        """Find items for a user; popular ones where the model fails."""
        require_items(serving, body)
        options: dict[str, Any] = {"k": k, "now_s": now_s, "serving": self._settings, "filters": filters_of(body)}
        try:
            ranking = recommend(serving.bundle, user.features, seed_items=body.seed_items, **options)
            return Found(serving, _finite(ranking))
        except Exception:
            _logger.exception("Recommendation falls back to popular items")
            popular = recommend(serving.bundle, None, **options)
            return Found(serving, popular, "the model failed, these are popular items")

    def similar(self, serving: Serving, *, k: int, body: SimilarBody) -> Found:
        """Find items like an item, or bought with it."""
        row = serving.bundle.row_of(body.item_id)
        if row is None:
            raise RequestError(404, _unknown_item("item_id", body.item_id))
        filters, category = filters_of(body), serving.bundle.display[row]["category"]
        if body.other_categories and category is not None:
            filters = replace(filters or Filters(), excluded_categories=(category,))
        ranking = similar(serving.bundle, body.item_id, k=k, serving=self._settings, kind=body.kind, filters=filters)
        return Found(serving, ranking)


def timed(find: Find, serving: Serving) -> Found:
    """Ask a bundle and say how long it took."""
    began = time.perf_counter()
    found = find(serving)
    return replace(found, latency_ms=1e3 * (time.perf_counter() - began))


def sound(found: Found) -> Found:
    """Return what the model found.

    Raises:
        BundleError: it did not answer.
    """
    if found.problem is not None:
        raise BundleError(found.problem)
    return found


def require_items(serving: Serving, body: RecommendBody) -> None:
    """Check that the bundle has the seed items.

    Raises:
        RequestError: 404.
    """
    for item_id in body.seed_items:
        if serving.bundle.row_of(item_id) is None:
            raise RequestError(404, _unknown_item("seed_items", item_id))


def filters_of(body: AnswerBody) -> Filters | None:
    """Return the filters of a request in the words of the ranking."""
    if body.filters is None:
        return None
    return Filters(
        categories=tuple(body.filters.categories),
        brands=tuple(body.filters.brands),
        min_price=body.filters.min_price,
        max_price=body.filters.max_price,
    )


def _words_alone(serving: Serving, query: str, k: int, body: AnswerBody) -> Ranking:
    scores = serving.bundle.lexical.scores(query)
    scores = scores / (scores.max(initial=0.0) or 1.0)
    rows = top_rows(scores, k, allowed_items(serving.bundle, filters_of(body)))
    return Ranking(rows, scores[rows], {"lexical": scores[rows]}, personalized=False)


def _finite(ranking: Ranking) -> Ranking:
    """Return the ranking.

    Raises:
        BundleError: a score is not a number.
    """
    if not np.isfinite(ranking.scores).all():
        raise BundleError("The model gives scores that are not numbers: use another bundle.")
    return ranking


def _unknown_item(field: str, item_id: str) -> str:
    return f"`{field}`: the item {item_id[:60]!r} is not in the catalogue: send an `item_id` that /search returns."
