"""What the service answers, apart from HTTP: pseudonyms, features, ranking, and what happens when a part fails."""

import logging
import math
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

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
from pipelines.config import ServingConfig
from pipelines.errors import DataError, StoreError
from pipelines.features.history import is_remembered
from pipelines.inference.preprocessing import UserFeatures
from pipelines.pseudonyms import Pseudonymizer
from pipelines.ranking.answers import Ranking, recommend, search, similar
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.ranking.ordering import top_rows
from pipelines.stores.event_log import EventLogStore
from pipelines.stores.served_features import ServedFeaturesLog
from pipelines.validation.rules import EARLIEST

_REMEMBERED_USERS = 10_000
_FEATURE_THREADS = 8
_FUTURE_TOLERANCE = timedelta(minutes=5)
_ITEM_TYPES = frozenset({"impression", "click", "view", "cart", "purchase", "rating"})
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
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take what was opened.

        Args:
            served: Keeps a sample of the features that were used; None keeps none.
        """
        self.serving = serving
        self._served = served
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
        bundle = self._live.current.bundle
        options: dict[str, Any] = {"k": 1, "now_s": self._now().timestamp(), "serving": self.serving}
        recommend(bundle, None, seed_items=bundle.item_ids[:1], **options)
        search(bundle, bundle.titles[0], **options)
        self._features.warm_up()

    def close(self) -> None:
        """Stop the background work."""
        self._live.close()
        self._features.close()
        if self._served is not None:
            self._served.close()

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
        watch, serving = Stopwatch(), self._live.current
        user = self._read_user(body.user_id, serving) if body.user_id is not None else FeatureAnswer(None)
        watch.lap("features")
        problems = [user.problem] if user.problem else []
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
        except Exception:
            _logger.exception("Search falls back to words alone")
            problems.append("the model failed, words alone were searched")
            ranking = self._words_alone(serving, query, k, body)
        watch.lap("rank")
        return self._answer(serving, ranking, body, watch, problems)

    def recommend(self, body: RecommendBody) -> dict[str, Any]:
        """Items for a user, best first; popular ones for a stranger."""
        k = self._items_wanted(body)
        watch, serving = Stopwatch(), self._live.current
        for item_id in body.seed_items:
            if serving.bundle.row_of(item_id) is None:
                raise RequestError(404, _unknown_item("seed_items", item_id))
        user = self._read_user(body.user_id, serving)
        watch.lap("features")
        problems = [user.problem] if user.problem else []
        options: dict[str, Any] = {
            "k": k,
            "now_s": self._now().timestamp(),
            "serving": self.serving,
            "filters": _filters(body),
        }
        try:
            ranking = recommend(serving.bundle, user.features, seed_items=body.seed_items, **options)
        except Exception:
            _logger.exception("Recommendation falls back to popular items")
            problems.append("the model failed, these are popular items")
            ranking = recommend(serving.bundle, None, **options)
        watch.lap("rank")
        return self._answer(serving, ranking, body, watch, problems)

    def similar(self, body: SimilarBody) -> dict[str, Any]:
        """Items like an item, or bought with it."""
        k = self._items_wanted(body)
        watch, serving = Stopwatch(), self._live.current
        if serving.bundle.row_of(body.item_id) is None:
            raise RequestError(404, _unknown_item("item_id", body.item_id))
        ranking = similar(
            serving.bundle, body.item_id, k=k, serving=self.serving, kind=body.kind, filters=_filters(body)
        )
        watch.lap("rank")
        return self._answer(serving, ranking, body, watch, [])

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
        problems: list[str] = []
        pushed = [event for event in stored if is_remembered(event)]
        if pushed:
            try:
                self._features.push(pushed)
            except Exception as error:  # noqa: BLE001 - the events are safe, whatever the store raises
                _logger.warning("Feature store: %s", error)
                problems = ["the feature store failed; the events are kept and count from the next refresh on"]
        return {"accepted": len(stored), **self._common(self._live.current, problems)}

    def _read_user(self, raw_user_id: str, serving: Serving) -> FeatureAnswer:
        """Return the features of a user, a sample of which is kept for the skew audit."""
        user_id = self._pseudonymizer.pseudonym(raw_user_id)
        answer = self._features.read(user_id)
        if self._served is not None and answer.features is not None:
            self._served.offer(user_id, answer.features, bundle=serving.bundle.bundle_id, now=self._now())
        return answer

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

    def _answer(
        self, serving: Serving, ranking: Ranking, body: AnswerBody, watch: Stopwatch, problems: list[str]
    ) -> dict[str, Any]:
        display = serving.bundle.display
        items = [
            {**display[row], "score": round(float(score), 6)}
            for row, score in zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)
            if math.isfinite(score)
        ]
        answer = {"items": items, "personalized": ranking.personalized, **self._common(serving, problems)}
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
