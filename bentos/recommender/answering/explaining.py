"""Why an answer shows what it shows: from what is remembered of the last answers, or asked anew for one item.

What is remembered is small and bounded: what was known of the user by reference, what was shown by row, no raw user id.
The bundle is not held; once it is gone, its answers cannot be explained any more.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from bentos.recommender.answering.arranging import Asked
from bentos.recommender.answering.cursors import item_mark
from bentos.recommender.answering.finding import Finder, Found, unknown_item
from bentos.recommender.bundles.serving import Serving
from bentos.recommender.contract.requests import RequestError
from bentos.recommender.telemetry.stopwatch import Stopwatch
from bentos.recommender.users.user_states import FeatureAnswer
from pipelines.config import ServingConfig
from pipelines.inference.bundle import Bundle
from pipelines.ranking.answers import Ranking, recommend, search, similar, with_seeds
from pipelines.ranking.arrangement import Arranged
from pipelines.ranking.candidates import moment_of
from pipelines.ranking.explanation import (
    Evidence,
    attended,
    evidence_of_recommendation,
    evidence_of_search,
    evidence_of_similar,
)
from pipelines.ranking.filtering import allowed_items
from pipelines.ranking.refusals import refusal

_ATTENDED = 10
"""Events of the history that are shown."""
_DAY_S = 86_400


@dataclass(frozen=True)
class Remembered:
    """One answer, as far as it is needed to say how it came about."""

    asked: Asked
    depth: int
    """Number of items that were ranked."""
    user: FeatureAnswer
    bundle: weakref.ref[Bundle]
    bundle_id: str
    ranking: Ranking
    """What was shown."""
    item_ids: list[str]
    arranged: Arranged | None
    problems: tuple[str, ...]

    @classmethod
    def of(cls, asked: Asked, user: FeatureAnswer, found: Found, problems: list[str]) -> "Remembered":
        """Take what an answer rests on."""
        bundle = found.serving.bundle
        return cls(
            asked,
            found.depth,
            user,
            weakref.ref(bundle),
            bundle.bundle_id,
            found.ranking,
            found.item_ids,
            found.arranged,
            tuple(problems),
        )


class Explainer:
    """Remembers the last answers and explains them; safe for several threads."""

    def __init__(self, finder: Finder, settings: ServingConfig) -> None:
        self._finder = finder
        self._settings = settings
        self._lock = threading.Lock()
        self._last: OrderedDict[str, Remembered] = OrderedDict()

    def remember(self, answer: Remembered) -> None:
        """Keep an answer, and forget the oldest one beyond the size."""
        with self._lock:
            self._last[answer.asked.request_id] = answer
            self._last.move_to_end(answer.asked.request_id)  # an id may come again
            if len(self._last) > self._settings.explained_requests:
                self._last.popitem(last=False)

    def remembers(self, request_id: str) -> bool:
        """Whether this process gave the answer, and lately."""
        with self._lock:
            return request_id in self._last

    def of_request(self, request_id: str, item_id: str | None, live: Serving) -> dict[str, Any]:
        """Explain an answer, or what became of one item in it.

        Raises:
            RequestError: 404, the answer is not remembered or its bundle is gone; or the item is unknown.
        """
        with self._lock:
            answer = self._last.get(request_id)
        if answer is None:
            raise RequestError(
                404,
                f"`request_id`: {request_id[:60]!r} is not one of the last {self._settings.explained_requests:,} "
                "answers of any process on this machine: ask sooner, ask the machine that gave it, or send `user_id` "
                "and `item_id`.",
            )
        serving = self._serving_of(answer, live)
        if serving is None:
            raise RequestError(
                404,
                f"`request_id`: the bundle {answer.bundle_id} that gave this answer was replaced since: ask about a "
                "newer answer, or send `user_id` and `item_id`.",
            )
        return self._explanation(answer, serving, item_id)

    def of_item(self, serving: Serving, asked: Asked, user: FeatureAnswer, item_id: str) -> dict[str, Any]:
        """Explain whether a user, a query or both are shown an item now.

        Raises:
            RequestError: 404, the item is unknown.
        """
        found = self._finder.find(serving, asked, user, Stopwatch())
        problems = [why for why in (user.problem, found.problem) if why]
        return self._explanation(Remembered.of(asked, user, found, problems), serving, item_id)

    # Inside

    @staticmethod
    def _serving_of(answer: Remembered, live: Serving) -> Serving | None:
        """Return the bundle of an answer, or the same one in which items have changed since; None if it is gone."""
        bundle, rows = answer.bundle(), answer.ranking.rows.tolist()
        if bundle is live.bundle:
            return live
        if bundle is not None:
            return Serving(bundle)
        is_same = live.bundle.bundle_id == answer.bundle_id and max(rows, default=-1) < live.bundle.n_items
        return live if is_same and [live.bundle.item_ids[row] for row in rows] == answer.item_ids else None

    def _explanation(self, answer: Remembered, serving: Serving, item_id: str | None) -> dict[str, Any]:
        bundle = serving.bundle
        shown = answer.ranking.rows.tolist()
        if item_id is None:
            rows = shown
        elif (row := bundle.row_of(item_id)) is None:
            raise RequestError(404, unknown_item("item_id", item_id))
        else:
            rows = [row]
        case = _Case(answer, serving, self._settings, self._finder)
        ranked = case.ranked(answer.depth)
        if not set(rows) <= {*shown, *ranked.rows.tolist()}:
            ranked = case.ranked(max(self._settings.max_depth, answer.depth))
        ranks = {row: rank for rank, row in enumerate(ranked.rows.tolist(), 1)}
        parts = _parts_by_row(ranked)
        evidence = case.evidence(rows, parts)
        asked, rules = answer.asked, answer.arranged.rules if answer.arranged is not None else ()
        explanation: dict[str, Any] = {
            "explains": {
                "request_id": asked.request_id or None,
                "call": asked.call,
                "at": datetime.fromtimestamp(asked.now_s, UTC).isoformat(),
                "first_position": asked.position.n_shown + 1,
                "items_wanted": asked.k,
            },
            "personalized": answer.ranking.personalized,
            "history": case.history(),
            "rules": list(rules),
            "items": [case.item(row, ranks.get(row), parts, evidence) for row in rows],
            "model_version": answer.bundle_id,
            "degraded": bool(answer.problems),
        }
        if answer.problems:
            explanation["degraded_because"] = list(answer.problems)
        return explanation


class _Case:
    """One answer over its bundle."""

    def __init__(self, answer: Remembered, serving: Serving, settings: ServingConfig, finder: Finder) -> None:
        self._answer = answer
        self._bundle = bundle = serving.bundle
        self._settings = settings
        self._finder = finder
        asked, features = answer.asked, answer.user.features
        self._now_s = moment_of(asked.now_s, features)
        self._features = with_seeds(features, asked.seed_items, self._now_s) if asked.seed_items else features
        self._filters = asked.filters_over(bundle)
        self._barred = finder.barred(serving, asked, answer.user)

    def ranked(self, depth: int) -> Ranking:
        """Return what was ranked before it was ordered, so many items deep."""
        asked, bundle, features = self._answer.asked, self._bundle, self._answer.user.features
        options: dict[str, Any] = {"k": depth, "serving": self._settings, "filters": self._filters}
        if asked.item_id is not None:
            return similar(bundle, asked.item_id, kind=asked.kind, **options)
        options["now_s"] = asked.now_s
        if asked.query is not None:
            return search(bundle, asked.query, features=features, **options)
        return recommend(bundle, features, seed_items=asked.seed_items, **options)

    def evidence(self, rows: list[int], parts: Mapping[int, Mapping[str, float]]) -> Evidence:
        """Return what is behind the scores."""
        asked, bundle = self._answer.asked, self._bundle
        if asked.item_id is not None:
            return evidence_of_similar(asked.kind, rows, parts)
        allowed = allowed_items(bundle, self._filters, sorted(self._barred))
        if asked.query is None:
            return evidence_of_recommendation(bundle, self._features, self._now_s, allowed, rows, parts)
        weight = self._settings.search_personalization
        embedded = bundle.user_embedding(self._features, self._now_s) if self._features and weight else None
        return evidence_of_search(
            bundle,
            asked.query,
            bundle.encode_queries([asked.query])[0],
            allowed,
            rows,
            parts,
            taste=(embedded[0], weight) if embedded is not None else None,
            depth=self._answer.depth,
        )

    def history(self) -> list[dict[str, Any]]:
        """Return the events of the user's own history that the user tower attends to most."""
        if self._features is None:
            return []
        features, now_s = self._features, self._now_s
        return [
            {
                "item_id": self._bundle.item_ids[event.row],
                "title": self._bundle.display[event.row]["title"],
                "event_type": features.event_types[event.place],
                "days_ago": round(max(now_s - features.event_times[event.place], 0) / _DAY_S, 3),
                "attention": round(event.weight, 6),
            }
            for event in attended(self._bundle, features, now_s, _ATTENDED)
        ]

    def item(
        self, row: int, rank: int | None, parts: Mapping[int, Mapping[str, float]], evidence: Evidence
    ) -> dict[str, Any]:
        """Say what there is to say of one item."""
        shown, arranged = self._answer.ranking.rows.tolist(), self._answer.arranged
        place = shown.index(row) if row in shown else None
        of_item: dict[str, Any] = {
            "item_id": self._bundle.item_ids[row],
            "title": self._bundle.display[row]["title"],
            "shown": place is not None,
            "why": self._why(row, rank, place),
            "rank": rank,
            "generators": list(evidence.generators.get(row, ())),
            "parts": dict(parts.get(row, {})),
            "contributions": dict(evidence.contributions.get(row, {})),
            "rules": arranged.rules_of(row) if arranged is not None else [],
        }
        if place is not None:
            of_item["position"] = self._answer.asked.position.n_shown + place + 1
            of_item["score"] = round(float(self._answer.ranking.scores[place]), 6)
            of_item["propensity"] = arranged.propensities[place] if arranged is not None else 1.0
        return of_item

    def _why(self, row: int, rank: int | None, place: int | None) -> str:
        arranged = self._answer.arranged
        if place is None:
            return self._why_not(row, rank)
        if arranged is not None and row in arranged.pinned:
            return f"shown: the rule {arranged.pinned[row]} pins it"
        if arranged is not None and row in arranged.explored:
            return "shown: exploration drew it for this slot"
        by_score = f"rank {rank} by score" if rank is not None else "by score"
        return f"shown: {by_score}" + (", after the ordering stage" if arranged is not None else "")

    def _why_not(self, row: int, rank: int | None) -> str:
        answer, arranged = self._answer, self._answer.arranged
        if (refused := refusal(self._bundle, row, self._filters) or self._barred.get(row)) is not None:
            return f"not shown: {refused}"
        effect = arranged.effect if arranged is not None else None
        if effect is not None and effect.excluded is not None and effect.excluded[effect.patterns[row]]:
            return f"not shown: excluded by the rule {', '.join(effect.touching(row))}"
        if answer.asked.position.marks and item_mark(self._bundle.item_ids[row]) in answer.asked.position.shown():
            return "not shown here: an earlier page shows it"
        if arranged is not None and row in arranged.held_back:
            return f"not shown: the cap {arranged.held_back[row]} held it back"
        if rank is None:
            return f"not shown: it is not among the first {max(self._settings.max_depth, answer.depth):,} candidates"
        return f"not shown: rank {rank} by score, {len(answer.ranking.rows)} items are shown"


def _parts_by_row(ranking: Ranking) -> dict[int, dict[str, float]]:
    """Return what each generator said of each ranked item."""
    columns = {name: np.round(part.astype(np.float64), 6).tolist() for name, part in ranking.parts.items()}
    return {
        row: {name: values[place] for name, values in columns.items()}
        for place, row in enumerate(ranking.rows.tolist())
    }
