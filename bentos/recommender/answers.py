"""What the service answers, apart from HTTP: pseudonyms, features, ranking, and what happens when a part fails."""

import logging
import math
import random
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np

from bentos.recommender.live_bundle import LiveBundle, Serving
from bentos.recommender.requests import (
    AnswerBody,
    EventBody,
    EventsBody,
    RecommendBody,
    RequestError,
    SearchBody,
    SimilarBody,
)
from bentos.recommender.trials import Canary, ShadowQuestion, Trials
from pipelines.config import ServingConfig
from pipelines.errors import BundleError, DataError, StoreError
from pipelines.features.history import is_remembered
from pipelines.inference.preprocessing import UserFeatures
from pipelines.pseudonyms import Pseudonymizer
from pipelines.ranking.answers import Ranking, recommend, search, similar
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.ranking.ordering import top_rows
from pipelines.stores.event_log import EventLogStore
from pipelines.stores.served_features import ServedFeaturesLog
from pipelines.stores.served_requests import Call, ServedRequestsLog
from pipelines.validation.rules import EARLIEST

_REMEMBERED_USERS = 10_000
_FEATURE_THREADS = 8
_FUTURE_TOLERANCE = timedelta(minutes=5)
_ITEM_TYPES = frozenset({"impression", "click", "view", "cart", "purchase", "rating"})
_CLICKS = frozenset({"click", "view", "cart", "purchase"})
"""What counts as a click on an item that was shown."""
_logger = logging.getLogger("headrace.serving")


class OnlineFeatureStore(Protocol):
    """The online feature store, as the service uses it."""

    def read_user(self, user_id: str) -> UserFeatures:
        """Return what is known of a user (a pseudonym); empty lists for a stranger."""
        ...

    def push_events(self, events: Sequence[Mapping[str, Any]]) -> Any:
        """Add events to what is known of their users."""
        ...


class Stopwatch:
    """Milliseconds per stage of one request."""

    def __init__(self) -> None:
        self._last = self._start = time.perf_counter()
        self.stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Book the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.stages[stage] = round((now - self._last) * 1e3, 3)
        self._last = now

    def total(self) -> dict[str, float]:
        """Return all stages and their sum."""
        return {**self.stages, "total": round((time.perf_counter() - self._start) * 1e3, 3)}


@dataclass(frozen=True)
class FeatureAnswer:
    """A user's features, and why they are not fresh if they are not."""

    features: UserFeatures | None
    problem: str | None = None


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


class PatientFeatures:
    """Reads user features, with a limit on the wait: then what was read last, or nothing."""

    def __init__(self, store: OnlineFeatureStore, timeout_ms: float) -> None:
        self._store = store
        self._timeout_s = timeout_ms / 1e3
        self._pool = ThreadPoolExecutor(_FEATURE_THREADS, thread_name_prefix="features")
        self._lock = threading.Lock()
        self._last: OrderedDict[str, UserFeatures] = OrderedDict()

    def read(self, user_id: str) -> FeatureAnswer:
        """Return the features of a user; never raises and never waits longer than the limit."""
        future = self._pool.submit(self._store.read_user, user_id)
        try:
            features = future.result(timeout=self._timeout_s)
        except FutureTimeoutError:
            future.cancel()
            problem = f"the feature store did not answer within {self._timeout_s * 1e3:.0f} ms"
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the request is answered
            _logger.warning("Feature store: %s", error)
            problem = "the feature store failed"
        else:
            with self._lock:
                self._last[user_id] = features
                self._last.move_to_end(user_id)
                if len(self._last) > _REMEMBERED_USERS:
                    self._last.popitem(last=False)
            return FeatureAnswer(features)
        with self._lock:
            remembered = self._last.get(user_id)
        return FeatureAnswer(remembered, problem)

    def warm_up(self) -> None:
        """Read a stranger once, however long it takes: the first read opens what later ones use.

        Raises:
            StoreError: the store does not answer.
        """
        self._store.read_user("")

    def push(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Add events to the store; raises what the store raises."""
        self._store.push_events(events)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Answers:
    """The calls of the service; each takes a parsed body and returns what goes out as JSON."""

    def __init__(
        self,
        *,
        live: LiveBundle,
        features: OnlineFeatureStore,
        event_log: EventLogStore,
        pseudonymizer: Pseudonymizer,
        serving: ServingConfig,
        served: ServedFeaturesLog | None = None,
        requests: ServedRequestsLog | None = None,
        trials: Trials | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take what was opened.

        Args:
            served: Keeps a sample of the features that were used; None keeps none.
            requests: Keeps a sample of the requests; None keeps none.
            trials: The bundles that are tried beside the live one; None tries none.
        """
        self.serving = serving
        self._served = served
        self._requests = requests
        self._trials = trials
        self._live = live
        self._features = PatientFeatures(features, serving.feature_timeout_ms)
        self._event_log = event_log
        self._pseudonymizer = pseudonymizer
        self._now = now

    @property
    def model_version(self) -> str:
        """Id of the bundle that answers now."""
        return self._live.current.bundle.bundle_id

    def warm_up(self) -> None:
        """Take every path of an answer once, so that the first request is as quick as the next.

        Raises:
            StoreError: the feature store does not answer; everything else is warm then.
        """
        self._warm_up_bundle()
        self._features.warm_up()

    def _warm_up_bundle(self) -> None:
        """Ask the bundle; apart, because a library that keeps the frames above its import would keep the bundle."""
        bundle = self._live.current.bundle
        options: dict[str, Any] = {"k": 1, "now_s": self._now().timestamp(), "serving": self.serving}
        recommend(bundle, None, seed_items=bundle.item_ids[:1], **options)
        search(bundle, bundle.titles[0], **options)

    def close(self) -> None:
        """Stop the background work."""
        self._live.close()
        self._features.close()
        for part in (self._trials, self._served, self._requests):
            if part is not None:
                part.close()

    def search(self, body: SearchBody) -> dict[str, Any]:
        """Items for a query, best first."""
        query = body.query.strip()
        if not any(character.isprintable() and not character.isspace() for character in query):
            raise RequestError(422, "`query` is empty: send the words to search for.")
        limit = self.serving.max_query_characters
        if len(query) > limit:
            raise RequestError(
                422, f"`query` has {len(query):,} characters, at most {limit:,} are allowed: shorten it."
            )
        k = self._items_wanted(body)
        watch = Stopwatch()
        user_id, user = self._known(body.user_id)
        watch.lap("features")
        return self._answer(
            "search", body, user_id, user, watch, lambda serving: self._search(serving, query, k, body, user, watch)
        )

    def recommend(self, body: RecommendBody) -> dict[str, Any]:
        """Items for a user, best first; popular ones for a stranger."""
        k = self._items_wanted(body)
        watch = Stopwatch()
        self._require_items(self._live.current, body)
        user_id, user = self._known(body.user_id)
        watch.lap("features")
        return self._answer(
            "recommend", body, user_id, user, watch, lambda serving: self._recommend(serving, k, body, user)
        )

    def similar(self, body: SimilarBody) -> dict[str, Any]:
        """Items like an item, or bought with it."""
        k = self._items_wanted(body)
        nobody = FeatureAnswer(None)
        return self._answer("similar", body, None, nobody, Stopwatch(), lambda serving: self._similar(serving, k, body))

    def events(self, body: EventsBody) -> dict[str, Any]:
        """Keep events: on disk first, then in the users' histories."""
        limit = self.serving.max_events
        if len(body.events) > limit:
            raise RequestError(
                422, f"`events` has {len(body.events):,} events, at most {limit:,} are allowed: send them in parts."
            )
        now = self._now()
        rows = [self._event_row(event, index, now) for index, event in enumerate(body.events)]
        try:
            stored = self._event_log.append(rows)
        except DataError as error:
            raise RequestError(422, str(error)) from error
        except StoreError as error:
            _logger.error("%s", error)
            raise RequestError(503, str(error)) from error
        self._count_clicks(stored, now)
        problems: list[str] = []
        pushed = [event for event in stored if is_remembered(event)]
        if pushed:
            try:
                self._features.push(pushed)
            except Exception as error:  # noqa: BLE001 - the events are safe, whatever the store raises
                _logger.warning("Feature store: %s", error)
                problems = ["the feature store failed; the events are kept and count from the next refresh on"]
        return {"accepted": len(stored), **self._common(self._live.current, problems)}

    # What one bundle finds

    def _search(
        self, serving: Serving, query: str, k: int, body: SearchBody, user: FeatureAnswer, watch: Stopwatch
    ) -> Found:
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
                now_s=self._now().timestamp(),
                serving=self.serving,
                query_vector=vector,
                features=user.features,
                filters=_filters(body),
            )
            return Found(serving, _finite(ranking))
        except Exception:
            _logger.exception("Search falls back to words alone")
            words = self._words_alone(serving, query, k, body)
            return Found(serving, words, "the model failed, words alone were searched")

    def _recommend(self, serving: Serving, k: int, body: RecommendBody, user: FeatureAnswer) -> Found:
        self._require_items(serving, body)
        options: dict[str, Any] = {
            "k": k,
            "now_s": self._now().timestamp(),
            "serving": self.serving,
            "filters": _filters(body),
        }
        try:
            ranking = recommend(serving.bundle, user.features, seed_items=body.seed_items, **options)
            return Found(serving, _finite(ranking))
        except Exception:
            _logger.exception("Recommendation falls back to popular items")
            popular = recommend(serving.bundle, None, **options)
            return Found(serving, popular, "the model failed, these are popular items")

    def _similar(self, serving: Serving, k: int, body: SimilarBody) -> Found:
        if serving.bundle.row_of(body.item_id) is None:
            raise RequestError(404, _unknown_item("item_id", body.item_id))
        ranking = similar(
            serving.bundle, body.item_id, k=k, serving=self.serving, kind=body.kind, filters=_filters(body)
        )
        return Found(serving, ranking)

    @staticmethod
    def _require_items(serving: Serving, body: RecommendBody) -> None:
        for item_id in body.seed_items:
            if serving.bundle.row_of(item_id) is None:
                raise RequestError(404, _unknown_item("seed_items", item_id))

    # Which bundle answers, and who learns of it

    def _answer(
        self, call: Call, body: AnswerBody, user_id: str | None, user: FeatureAnswer, watch: Stopwatch, find: Find
    ) -> dict[str, Any]:
        canary = self._trials.canary_for(user_id) if self._trials is not None else None
        found = self._by_canary(canary, call, user_id, find) if canary is not None and user_id is not None else None
        if found is None:
            found = self._by_live(call, user_id, find, has_canary=canary is not None)
        watch.lap("rank")
        if self._requests is not None:
            asked = body.model_dump(mode="json", exclude_unset=True, exclude={"timings"})
            answered = len(found.ranking.rows)
            self._requests.offer(call, asked, user.features, answered=answered, now=self._now())
        return self._as_json(found, body, watch, [why for why in (user.problem, found.problem) if why])

    def _by_live(self, call: Call, user_id: str | None, find: Find, *, has_canary: bool) -> Found:
        """Answer from the live bundle; the guard of a canary and the shadow learn of it."""
        found = _timed(find, self._live.current)
        if self._trials is None:
            return found
        now = self._now()
        canary = self._trials.canary
        if canary is not None and user_id is not None and not has_canary:
            canary.guard.live_answer(call, user_id, found.item_ids, found.latency_ms, now.timestamp())
            self._trials.stop_if_bad(canary)
        if self._trials.shadow is not None:
            question = ShadowQuestion(
                call=call,
                live=found.serving.bundle.bundle_id,
                live_items=found.item_ids,
                live_ms=found.latency_ms,
                ask=lambda serving: _sound(find(serving)).item_ids,
                now=now,
            )
            self._trials.ask_shadow(question, random.random())  # noqa: S311 - a sample, not a secret
        return found

    def _by_canary(self, canary: Canary, call: Call, user_id: str, find: Find) -> Found | None:
        """Answer from the canary; None where it fails or finds nothing, which its guard learns."""
        assert self._trials is not None  # noqa: S101 - it gave the canary
        if canary.serving.bundle.bundle_id == self._live.current.bundle.bundle_id:
            return None  # promoted meanwhile
        try:
            found = _timed(find, canary.serving)
            is_sound = found.problem is None
        except RequestError:  # about an item that the canary does not have: not its fault, nor a failure
            return None
        except Exception:
            _logger.exception("The canary %s failed", canary.trial.bundle)
            found, is_sound = None, False
        if found is None or not is_sound or not len(found.ranking.rows):
            instead = find(self._live.current)  # raises what is wrong with the request itself
            if not is_sound and instead.problem is None:
                canary.guard.canary_failed()
            elif is_sound and len(instead.ranking.rows):
                canary.guard.canary_failed(empty=True)
            self._trials.stop_if_bad(canary)
            return instead
        try:
            canary.guard.canary_answer(call, user_id, found.item_ids, found.latency_ms, self._now().timestamp())
            self._trials.stop_if_bad(canary)
        except Exception:  # an answer that is there is sent, whatever its guard makes of it
            _logger.exception("The guard of the canary %s failed", canary.trial.bundle)
        return found

    def _count_clicks(self, events: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Tell the guard of a canary what users did with what they were shown."""
        canary = self._trials.canary if self._trials is not None else None
        if canary is None or self._trials is None:
            return
        clicked: dict[str, list[str]] = {}
        for event in events:
            if event["event_type"] in _CLICKS:
                clicked.setdefault(event["user_id"], []).append(event["item_id"])
        for user_id, item_ids in clicked.items():
            canary.guard.clicked(user_id, item_ids, now.timestamp())
        self._trials.stop_if_bad(canary)

    def _known(self, raw_user_id: str | None) -> tuple[str | None, FeatureAnswer]:
        """Return the pseudonym and the features of a user, a sample of which is kept for the skew audit."""
        if raw_user_id is None:
            return None, FeatureAnswer(None)
        user_id = self._pseudonymizer.pseudonym(raw_user_id)
        answer = self._features.read(user_id)
        if self._served is not None and answer.features is not None:
            self._served.offer(user_id, answer.features, bundle=self.model_version, now=self._now())
        return user_id, answer

    def _items_wanted(self, body: AnswerBody) -> int:
        limit = self.serving.max_k
        if body.k > limit and "k" in body.model_fields_set:
            raise RequestError(422, f"`k` is {body.k:,}, at most {limit:,} is allowed: ask for fewer items.")
        return min(body.k, limit)

    def _event_row(self, event: EventBody, index: int, now: datetime) -> dict[str, Any]:
        where = f"events.{index}"
        if event.event_type in _ITEM_TYPES and event.item_id is None:
            raise RequestError(422, f"`{where}.item_id` is missing: a {event.event_type} needs the item it is about.")
        if event.event_type == "search" and event.query is None:
            raise RequestError(422, f"`{where}.query` is missing: a search needs the words searched for.")
        happened = event.event_timestamp or now
        if happened < EARLIEST:  # also what is too early to be written in UTC at all
            raise RequestError(
                422,
                f"`{where}.event_timestamp` is {happened.isoformat()}, before {EARLIEST.date()}, which no event is: "
                "send the time at which it happened.",
            )
        if happened > now + _FUTURE_TOLERANCE:
            raise RequestError(
                422,
                f"`{where}.event_timestamp` is {happened.isoformat()}, it is {now.isoformat()} now: send a time that "
                "is over.",
            )
        return {
            **event.model_dump(),
            "user_id": self._pseudonymizer.pseudonym(event.user_id),
            "event_id": event.event_id or uuid.uuid4().hex,
            "event_timestamp": happened.astimezone(UTC),
        }

    def _words_alone(self, serving: Serving, query: str, k: int, body: AnswerBody) -> Ranking:
        scores = serving.bundle.lexical.scores(query)
        scores = scores / (scores.max(initial=0.0) or 1.0)
        rows = top_rows(scores, k, allowed_items(serving.bundle, _filters(body)))
        return Ranking(rows, scores[rows], {"lexical": scores[rows]}, personalized=False)

    def _as_json(self, found: Found, body: AnswerBody, watch: Stopwatch, problems: list[str]) -> dict[str, Any]:
        display, ranking = found.serving.bundle.display, found.ranking
        items = [
            {**display[row], "score": round(float(score), 6)}
            for row, score in zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)
            if math.isfinite(score)
        ]
        answer = {"items": items, "personalized": ranking.personalized, **self._common(found.serving, problems)}
        if body.timings:
            answer["timings_ms"] = watch.total()
        return answer

    @staticmethod
    def _common(serving: Serving, problems: list[str]) -> dict[str, Any]:
        common: dict[str, Any] = {
            "request_id": uuid.uuid4().hex,
            "model_version": serving.bundle.bundle_id,
            "degraded": bool(problems),
        }
        if problems:
            common["degraded_because"] = problems
        return common


def _timed(find: Find, serving: Serving) -> Found:
    began = time.perf_counter()
    found = find(serving)
    return replace(found, latency_ms=1e3 * (time.perf_counter() - began))


def _sound(found: Found) -> Found:
    """Return what the model found.

    Raises:
        BundleError: it did not answer.
    """
    if found.problem is not None:
        raise BundleError(found.problem)
    return found


def _finite(ranking: Ranking) -> Ranking:
    """Return the ranking.

    Raises:
        BundleError: a score is not a number.
    """
    if not np.isfinite(ranking.scores).all():
        raise BundleError("The model gives scores that are not numbers: use another bundle.")
    return ranking


def _filters(body: AnswerBody) -> Filters | None:
    if body.filters is None:
        return None
    return Filters(
        categories=tuple(body.filters.categories),
        brands=tuple(body.filters.brands),
        min_price=body.filters.min_price,
        max_price=body.filters.max_price,
    )


def _unknown_item(field: str, item_id: str) -> str:
    return f"`{field}`: the item {item_id[:60]!r} is not in the catalogue: send an `item_id` that /search returns."
