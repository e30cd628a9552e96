"""What is known of the users, read rarely and never waited for long: a slow or broken store holds up no answer."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Protocol

from bentos.recommender.circuit_breaker import CircuitBreaker
from bentos.recommender.patient_calls import PatientCalls
from pipelines.config import ServingConfig
from pipelines.inference.preprocessing import UserFeatures

_logger = logging.getLogger("headrace.serving")


class StoredFeatures(UserFeatures, Protocol):
    """Features as the store gives them."""

    @property
    def counts_until_us(self) -> int | None:
        """Last moment at which all of it counts, microseconds since 1970 UTC; None: it always does."""
        ...


class OnlineFeatureStore(Protocol):
    """The online feature store, as the service uses it."""

    @property
    def is_shared(self) -> bool:
        """Whether others may write of whose changes `stamp` does not know."""
        ...

    def stamp(self, user_id: str) -> object | None:
        """Return what is another one after each change of the user; None: cannot be told. Never waits or raises."""
        ...

    def read_user(self, user_id: str) -> StoredFeatures:
        """Return what is known of a user (a pseudonym); empty lists for a stranger."""
        ...

    def push_events(self, events: Sequence[Mapping[str, Any]]) -> Any:
        """Add events to what is known of their users."""
        ...


@dataclass(frozen=True)
class FeatureAnswer:
    """A user's features, and why they are not fresh if they are not."""

    features: UserFeatures | None
    """The same object as before while nothing is known that was not known before."""
    problem: str | None = None


@dataclass(frozen=True)
class _Known:
    """What was read of a user."""

    answer: FeatureAnswer
    features: StoredFeatures
    stamp: object | None
    read_at: float
    """Monotonic, seconds."""


class UserStates:
    """The features of users: kept as long as nothing has changed, then read with a limit on the wait."""

    def __init__(
        self, store: OnlineFeatureStore, serving: ServingConfig, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Nothing is read yet.

        Args:
            clock: The present, seconds since 1970 UTC.
        """
        self._store = store
        self._clock = clock
        self._timeout_s = serving.feature_timeout_ms / 1e3
        self._most_users = serving.cached_users
        self._keep_s = min(serving.user_cache_s, serving.shared_user_cache_s if store.is_shared else float("inf"))
        self._calls: PatientCalls[FeatureAnswer] = PatientCalls("features")
        self._breaker = CircuitBreaker()
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._reading: dict[str, Future[FeatureAnswer]] = {}

    def fresh(self, user_id: str) -> FeatureAnswer | None:
        """Return what is known of a user without waiting; None: it must be read.

        While the store is left alone because it failed, that is what was known last.
        """
        known = self._recall(user_id)
        if known is not None and self._is_fresh(user_id, known):
            return known.answer
        if not self._breaker.lets_pass:
            return self._last_known(user_id, "the feature store failed and is left alone for a moment")
        return None

    def read(self, user_id: str, within_s: float | None = None) -> FeatureAnswer:
        """Return the features of a user; never raises.

        Args:
            within_s: What is left of the request's time, seconds; the wait is limited by `feature_timeout_ms` anyway.
        """
        answer = self.fresh(user_id)
        if answer is not None:
            return answer
        if not self._breaker.passes():
            return self._last_known(user_id, "the feature store failed and is left alone for a moment")
        budget_s = self._timeout_s if within_s is None else max(0.0, min(self._timeout_s, within_s))
        call = self._begin_reading(user_id)
        if call is None:
            return self._last_known(user_id, "too many wait for the feature store")
        try:
            return call.result(timeout=budget_s)
        except FutureTimeoutError:
            if budget_s >= self._timeout_s:
                self._breaker.failed()
            return self._last_known(user_id, f"the feature store did not answer within {budget_s * 1e3:.0f} ms")
        except (Exception, CancelledError) as error:  # noqa: BLE001 - whatever a store raises, the request is answered
            _logger.warning("Feature store: %s", error)
            return self._last_known(user_id, "the feature store failed")

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
        self._calls.close()

    # Inside

    def _recall(self, user_id: str) -> _Known | None:
        with self._lock:
            known = self._known.get(user_id)
            if known is not None:
                self._known.move_to_end(user_id)
            return known

    def _is_fresh(self, user_id: str, known: _Known) -> bool:
        if known.stamp is None or time.monotonic() - known.read_at > self._keep_s:
            return False
        until = known.features.counts_until_us
        if until is not None and self._clock() * 1e6 > until:
            return False
        return self._store.stamp(user_id) == known.stamp

    def _last_known(self, user_id: str, problem: str) -> FeatureAnswer:
        known = self._recall(user_id)
        return FeatureAnswer(None if known is None else known.features, problem)

    def _begin_reading(self, user_id: str) -> Future[FeatureAnswer] | None:
        """Read on another thread, or join a reading that cannot have missed anything."""
        with self._lock:
            call = self._reading.get(user_id)
            if call is not None and not call.running():  # what is running may have read before the last change
                return call
        call = self._calls.submit(lambda: self._read_now(user_id))
        if call is not None:
            with self._lock:
                self._reading[user_id] = call
            call.add_done_callback(lambda done: self._end_reading(user_id, done))
        return call

    def _end_reading(self, user_id: str, call: Future[FeatureAnswer]) -> None:
        with self._lock:
            if self._reading.get(user_id) is call:
                del self._reading[user_id]

    def _read_now(self, user_id: str) -> FeatureAnswer:
        began = time.monotonic()
        stamp = self._store.stamp(user_id)  # before the reading: what changes meanwhile is read again
        try:
            features = self._store.read_user(user_id)
        except Exception:
            self._breaker.failed()
            raise
        if time.monotonic() - began < self._timeout_s:
            self._breaker.succeeded()
        return self._keep(user_id, features, stamp, began)

    def _keep(self, user_id: str, features: StoredFeatures, stamp: object | None, read_at: float) -> FeatureAnswer:
        with self._lock:
            before = self._known.get(user_id)
            if before is not None and before.features == features:
                features, answer = before.features, before.answer
            else:
                answer = FeatureAnswer(features)
            if before is None or before.read_at <= read_at:
                self._known[user_id] = _Known(answer, features, stamp, read_at)
                self._known.move_to_end(user_id)
                if len(self._known) > self._most_users:
                    self._known.popitem(last=False)
            return answer
