"""What one bundle finds for a request, and what it falls back to where its model fails."""

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bentos.recommender.answering.arranging import Arranger, Asked, Stage
from bentos.recommender.bundles.serving import Serving
from bentos.recommender.contract.requests import AnswerBody, RequestError
from bentos.recommender.telemetry import metrics
from bentos.recommender.telemetry.stopwatch import Stopwatch
from bentos.recommender.users.user_states import FeatureAnswer
from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.ranking.answers import Ranking, recommend, search, similar
from pipelines.ranking.arrangement import Arranged
from pipelines.ranking.candidates import moment_of
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.ranking.ordering import top_rows
from pipelines.ranking.prepared import prepared_user

_DEEPER = 10
"""How many times deeper the ranking is asked where rules leave too little of it."""
_logger = logging.getLogger("headrace.serving")


@dataclass(frozen=True)
class Found:
    """What a bundle found for a request."""

    serving: Serving
    ranking: Ranking
    """What is shown."""
    problem: str | None = None
    """Why it is not what the model says."""
    arranged: Arranged | None = None
    """How the ordering stage came to it; None where the ranking is shown as it is."""
    depth: int = 0
    """Number of items that were ranked for it."""
    more: bool = False
    """Whether there may be another page."""
    latency_ms: float = math.nan

    @cached_property
    def item_ids(self) -> list[str]:
        """Ids of the items, best first."""
        known = self.serving.bundle.item_ids
        return [known[row] for row in self.ranking.rows.tolist()]


Find = Callable[[Serving], Found]


class Finder:
    """Asks a bundle: the same question can be put to several."""

    def __init__(self, settings: ServingConfig) -> None:
        """Read the business rules.

        Raises:
            ConfigError: their file cannot be used.
        """
        self._settings = settings
        self.arranger = Arranger(settings)

    def warm_up(self, serving: Serving, now_s: float) -> None:
        """Take every path once."""
        bundle = serving.bundle
        options: dict[str, Any] = {"k": 1, "now_s": now_s, "serving": self._settings}
        recommend(bundle, None, seed_items=bundle.item_ids[:1], **options)
        search(bundle, bundle.display[0]["title"], **options)
        self.arranger.rules.of(bundle)

    def find(self, serving: Serving, asked: Asked, user: FeatureAnswer, watch: Stopwatch) -> Found:
        """Find what is asked for.

        Raises:
            RequestError: 404, the bundle does not have an item that the request names.
        """
        if asked.call == "search":
            return self._search(serving, asked, user, watch)
        if asked.call == "recommend":
            return self._recommend(serving, asked, user)
        return self._similar(serving, asked)

    def _search(self, serving: Serving, asked: Asked, user: FeatureAnswer, watch: Stopwatch) -> Found:
        """Find items for a query; by words alone where the model fails."""
        query = asked.query or ""
        stage = self.arranger.stage(serving.bundle, asked)
        try:
            vector = serving.queries.get(query)
            (metrics.QUERY_CACHE_MISSES if vector is None else metrics.QUERY_CACHE_HITS).inc()
            if vector is None:
                vector = serving.bundle.encode_queries([query])[0]
                serving.queries.put(query, vector)
            watch.lap("encode")
            options: dict[str, Any] = {
                "now_s": asked.now_s,
                "serving": self._settings,
                "query_vector": vector,
                "features": user.features,
                "filters": asked.filters,
                "prepared": serving.prepared(self._settings),
            }
            return _ordered(serving, stage, lambda depth: _finite(search(serving.bundle, query, k=depth, **options)))
        except Exception:
            _logger.exception("Search falls back to words alone")
            problem = "the model failed, words alone were searched"
            return _ordered(
                serving, stage, lambda depth: _words_alone(serving, query, depth, asked.filters), problem=problem
            )

    def _recommend(self, serving: Serving, asked: Asked, user: FeatureAnswer) -> Found:
        """Find items for a user; popular ones where the model fails."""
        bundle, seeds = serving.bundle, asked.seed_items
        require_items(serving, seeds)
        stage = self.arranger.stage(bundle, asked)
        options: dict[str, Any] = {"now_s": asked.now_s, "serving": self._settings, "filters": asked.filters}
        barred = self.barred(serving, asked, user) if stage.reaches_beyond else ()
        try:
            known: dict[str, Any] = {**options, "seed_items": seeds, "prepared": serving.prepared(self._settings)}
            return _ordered(
                serving, stage, lambda depth: _finite(recommend(bundle, user.features, k=depth, **known)), barred
            )
        except Exception:
            _logger.exception("Recommendation falls back to popular items")
            problem = "the model failed, these are popular items"
            return _ordered(
                serving, stage, lambda depth: recommend(bundle, None, k=depth, **options), barred, problem=problem
            )

    def _similar(self, serving: Serving, asked: Asked) -> Found:
        """Find items like an item, or bought with it."""
        item_id = asked.item_id or ""
        row = serving.bundle.row_of(item_id)
        if row is None:
            raise RequestError(404, unknown_item("item_id", item_id))
        stage = self.arranger.stage(serving.bundle, asked)
        options: dict[str, Any] = {
            "serving": self._settings,
            "kind": asked.kind,
            "filters": asked.filters_over(serving.bundle),
            "prepared": serving.prepared(self._settings),
        }
        return _ordered(serving, stage, lambda depth: similar(serving.bundle, item_id, k=depth, **options), (row,))

    def barred(self, serving: Serving, asked: Asked, user: FeatureAnswer) -> dict[int, str]:
        """Return the rows that are not shown whatever their scores, and why."""
        bundle, now_s = serving.bundle, moment_of(asked.now_s, user.features)
        barred = {row: "it is one of the seed items" for row in map(bundle.row_of, asked.seed_items) if row is not None}
        if asked.call == "recommend" and user.features is not None:
            known = prepared_user(bundle, user.features, now_s, serving.prepared(self._settings))
            days = self._settings.exclude_purchased_days
            for row in known.recently_bought(now_s, days).tolist() if known is not None else ():
                barred[row] = f"it was bought within {days:g} days"
        if asked.call == "similar" and (row := bundle.row_of(asked.item_id or "")) is not None:
            barred[row] = "it is the item itself"
        return barred


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


def require_items(serving: Serving, item_ids: Sequence[str]) -> None:
    """Check that the bundle has the seed items.

    Raises:
        RequestError: 404.
    """
    for item_id in item_ids:
        if serving.bundle.row_of(item_id) is None:
            raise RequestError(404, unknown_item("seed_items", item_id))


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


def _words_alone(serving: Serving, query: str, k: int, filters: Filters | None) -> Ranking:
    scores = serving.bundle.lexical.scores(query)
    scores = scores / (scores.max(initial=0.0) or 1.0)
    rows = top_rows(scores, k, allowed_items(serving.bundle, filters))
    return Ranking(rows, scores[rows], {"lexical": scores[rows]}, personalized=False)


def _ordered(
    serving: Serving,
    stage: Stage,
    ranked: Callable[[int], Ranking],
    barred: Collection[int] = (),
    *,
    problem: str | None = None,
) -> Found:
    """Rank as deep as the ordering stage needs, and order; what the stage makes of it never costs the answer.

    Args:
        barred: Rows that are not shown whatever a rule says.
    """
    depth = stage.depth
    ranking = ranked(depth)
    if stage.idle:
        return Found(serving, ranking, problem, depth=depth, more=len(ranking.rows) == depth)
    try:
        shown, arranged = stage.arranged(ranking, barred)
        if arranged.n_left < stage.asked.k and len(ranking.rows) == depth:  # rules exclude more than the pool
            depth *= _DEEPER
            ranking = ranked(depth)
            shown, arranged = stage.arranged(ranking, barred)
    except Exception:
        _logger.exception("Ordering falls back to the order of the scores")
        problem = problem or "ordering failed, this is the order of the scores"
        return Found(serving, stage.unordered(ranking), problem, depth=depth)
    return Found(serving, shown, problem, arranged, depth=depth, more=arranged.more or len(ranking.rows) == depth)


def _finite(ranking: Ranking) -> Ranking:
    """Return the ranking.

    Raises:
        BundleError: a score is not a number.
    """
    if not np.isfinite(ranking.scores).all():
        raise BundleError("The model gives scores that are not numbers: use another bundle.")
    return ranking


def unknown_item(field: str, item_id: str) -> str:
    """Say that the catalogue does not have an item."""
    return f"`{field}`: the item {item_id[:60]!r} is not in the catalogue: send an `item_id` that /search returns."
