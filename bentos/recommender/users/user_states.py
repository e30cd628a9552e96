"""What is known of the users, read rarely and never waited for long: a slow or broken store holds up no answer.

What answers goes down in steps, each of which is told and counted: what the store says now, what it said last, both
with the events that this process was just told of, those events alone, nothing.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, Protocol

from bentos.recommender.telemetry import metrics
from bentos.recommender.users.circuit_breaker import CircuitBreaker
from bentos.recommender.users.patient_calls import PatientCalls
from bentos.recommender.users.session_histories import SessionHistories
from pipelines.config import ServingConfig
from pipelines.errors import DamagedStateError
from pipelines.inference.preprocessing import UserFeatures

Source = Literal["store", "cache", "session", "nothing"]
"""Where features come from: the store; what it said last; with events of this process; nowhere."""
_USED_INSTEAD: dict[Source, str] = {
    "cache": "what it said last is used",
    "session": "the events of this session are used",
    "nothing": "nothing is known of the user",
}
_LEFT_ALONE = "the feature store failed and is left alone for a moment"
_COUNT_LATER = "the events are kept and count for this session; other workers know of them once it answers"
_MOST_SESSIONS = 4_000
_AHEAD = 0.75
"""Who is asked for is read again after so much of the longest time that features are used, before that has passed."""
_QUICK_S, _SLOW_FOR_S = 0.02, 1.0
"""A store that took longer for a push is waited for on another thread for so long: it might hang the next time."""
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

    def push_events(self, events: Sequence[Mapping[str, Any]]) -> Mapping[str, tuple[StoredFeatures, object | None]]:
        """Add events to what is known of their users.

        Returns:
            Of each user whom the events changed what is known now, and its stamp.
        """
        ...

    def push_at_once(
        self, events: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, tuple[StoredFeatures, object | None]] | None:
        """Do as `push_events` does, unless it would have to wait for somebody: None."""
        ...


_Push = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, tuple[StoredFeatures, object | None]] | None]


@dataclass(frozen=True)
class FeatureAnswer:
    """A user's features, and why they are not fresh if they are not."""

    features: UserFeatures | None
    """The same object as before while nothing is known that was not known before."""
    problem: str | None = None
    source: Source = "store"


@dataclass
class _Known:
    """What was read of a user."""

    answer: FeatureAnswer
    features: StoredFeatures
    stamp: object | None
    read_at: float
    """Monotonic, seconds."""
    is_wanted: bool = False
    """Whether it was asked for since."""


class UserStates:
    """The features of users: kept as long as nothing has changed, then read with a limit on the wait."""

    def __init__(
        self, store: OnlineFeatureStore, serving: ServingConfig, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Nothing is read yet.

        Args:
            clock: The present, seconds since 1970 UTC.
        """
        self.changed: Callable[[UserFeatures, UserFeatures], None] = lambda before, after: None  # noqa: ARG005
        """Learns what was known of a user before an event, and what is known since."""
        self._store = store
        self._clock = clock
        self._timeout_s = serving.feature_timeout_ms / 1e3
        self._push_timeout_s = serving.push_timeout_ms / 1e3
        self._most_users = serving.cached_users
        self._keep_s = min(serving.user_cache_s, serving.shared_user_cache_s if store.is_shared else float("inf"))
        self._calls: PatientCalls[FeatureAnswer] = PatientCalls("features")
        self._pushes: PatientCalls[bool] = PatientCalls("pushes")
        self._breaker = CircuitBreaker()
        self._push_breaker = CircuitBreaker()
        self._slow_until = 0.0
        self._sessions = SessionHistories(min(serving.cached_users, _MOST_SESSIONS))
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._reading: dict[str, Future[FeatureAnswer]] = {}

    def fresh(self, user_id: str) -> FeatureAnswer | None:
        """Return what is known of a user without waiting; None: it must be read.

        While the store is left alone because it failed, that is what was known last.
        """
        known = self._recall(user_id)
        if known is not None and self._is_fresh(user_id, known):
            known.is_wanted = True
            return self._with_session(user_id, known.answer)
        return None if self._breaker.lets_pass else self._instead(user_id, _LEFT_ALONE)

    def read(self, user_id: str, within_s: float | None = None, *, fresh: FeatureAnswer | None = None) -> FeatureAnswer:
        """Return the features of a user; never raises, and waits at most for `feature_timeout_ms`.

        Args:
            within_s: What is left of the request's time, seconds: it waits no longer.
            fresh: What `fresh` has just said, where it was asked.
        """
        answer = fresh or self.fresh(user_id) or self._read(user_id, _least(self._timeout_s, within_s))
        if answer.source != "store":
            metrics.INSTEAD_OF_FRESH.labels(answer.source).inc()
        return answer

    def warm_up(self) -> None:
        """Read a stranger once, however long it takes: the first read opens what later ones use.

        Raises:
            StoreError: the store does not answer.
        """
        self._store.read_user("")

    def push(self, events: Sequence[Mapping[str, Any]], began: float, within_s: float | None = None) -> str | None:
        """Let events count: the next answer to their users knows of them. Never raises.

        Args:
            events: As the event log keeps them, all of types that are part of a history.
            began: When they came in, on the clock of `time.monotonic`.
            within_s: What is left of the request's time, seconds: it waits no longer.

        Returns:
            Why they are not in the online store yet; None where they are.
        """
        self._sessions.add(events)
        if not self._push_breaker.passes():
            return f"{_LEFT_ALONE}; {_COUNT_LATER}"
        budget_s = _least(self._push_timeout_s, within_s)
        try:
            if self._may_push_here(budget_s) and self._push_now(events, began, self._store.push_at_once):
                return None
        except Exception as error:  # noqa: BLE001 - as below
            return self._push_failed(error)
        call = self._pushes.submit(partial(self._push_now, events, began, self._store.push_events))
        if call is None:
            return f"too many wait for the feature store; {_COUNT_LATER}"
        try:
            call.result(timeout=budget_s)
        except FutureTimeoutError:
            if budget_s >= self._push_timeout_s:
                self._push_breaker.failed()
            return f"the feature store did not take the events within {budget_s * 1e3:.0f} ms; {_COUNT_LATER}"
        except (Exception, CancelledError) as error:  # noqa: BLE001 - the events are safe, whatever the store raises
            return self._push_failed(error)
        return None

    def push_again(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Push events of the log that the store may lack, however long it takes; those that it has change nothing.

        Raises:
            StoreError: as the store raises it.
        """
        pushed = self._store.push_events(events)
        self._sessions.pushed(events)
        self._keep_pushed(pushed)
        for event in events:
            if event["user_id"] in pushed:
                metrics.tell_event_to_effect(max(0.0, self._clock() - event["created_timestamp"].timestamp()))

    def latest(self, most: int) -> list[str]:
        """Return who was read or told of last, the newest first."""
        with self._lock:
            return list(islice(reversed(self._known), most))

    def ageing(self, most: int) -> list[str]:
        """Return who of the latest was asked for, but will soon have to be read again."""
        return [user_id for user_id in self.latest(most) if self._is_ageing(self._known.get(user_id))]

    def refresh(self, user_id: str) -> bool:
        """Read a user again if what is known here has changed elsewhere or is ageing; return whether that was tried.

        Nothing waits for it: a store that failed is left alone, and what it raises is for whoever asks later.
        """
        with self._lock:
            known = self._known.get(user_id)
        if known is None or known.stamp is None or not self._breaker.lets_pass:
            return False
        if self._store.stamp(user_id) in (known.stamp, None) and not self._is_ageing(known):
            return False
        call = self._begin_reading(user_id)
        if call is None:
            return False
        try:
            answer = call.result(timeout=self._timeout_s)
        except (Exception, CancelledError):  # noqa: BLE001 - as above
            return True
        if answer.features is not None and answer.features is not known.features:
            self.changed(known.features, answer.features)
        return True

    def close(self) -> None:
        """Let go of the threads."""
        self._calls.close()
        self._pushes.close()

    # Inside

    def _read(self, user_id: str, budget_s: float) -> FeatureAnswer:
        if not self._breaker.passes():
            return self._instead(user_id, _LEFT_ALONE)
        call = self._begin_reading(user_id)
        if call is None:
            return self._instead(user_id, "too many wait for the feature store")
        try:
            return self._with_session(user_id, call.result(timeout=budget_s))
        except FutureTimeoutError:
            if budget_s >= self._timeout_s:
                self._breaker.failed()
            return self._instead(user_id, f"the feature store did not answer within {budget_s * 1e3:.0f} ms")
        except (Exception, CancelledError) as error:  # noqa: BLE001 - whatever a store raises, the request is answered
            _logger.warning("Feature store: %s", error)
            return self._instead(user_id, "the feature store failed")

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

    def _is_ageing(self, known: _Known | None) -> bool:
        """Whether it is used, but not for much longer."""
        return known is not None and known.is_wanted and time.monotonic() - known.read_at > _AHEAD * self._keep_s

    def _with_session(self, user_id: str, answer: FeatureAnswer) -> FeatureAnswer:
        """Add what waits for the online store to what that says."""
        session = self._sessions.of(user_id)
        if session is None or not session.waiting:
            return answer
        joined = session.joined(answer.features)
        if joined is answer.features:
            return answer
        return FeatureAnswer(joined, "the last events are not in the feature store yet", "session")

    def _instead(self, user_id: str, problem: str) -> FeatureAnswer:
        """Return what is known without the store."""
        known, session = self._recall(user_id), self._sessions.of(user_id)
        features: UserFeatures | None = None if known is None else known.features
        source: Source = "nothing" if known is None else "cache"
        if session is not None:
            joined = session.joined(features)
            if joined is not features:
                features, source = joined, "session"
        return FeatureAnswer(features, f"{problem}, {_USED_INSTEAD[source]}", source)

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
        except DamagedStateError:  # of this user: the store is well
            raise
        except Exception:
            self._breaker.failed()
            raise
        if time.monotonic() - began < self._timeout_s:
            self._breaker.succeeded()
        return self._keep(user_id, features, stamp, began)

    def _may_push_here(self, budget_s: float) -> bool:
        """Whether the thread that has events may push them itself: where the store has answered quickly of late."""
        return budget_s > _QUICK_S and time.monotonic() >= self._slow_until

    def _push_now(self, events: Sequence[Mapping[str, Any]], began: float, push: _Push) -> bool:
        """Push events; false where that would have to wait for somebody."""
        asked = time.monotonic()
        try:
            pushed = push(events)
        except DamagedStateError:
            raise
        except Exception:
            self._push_breaker.failed()
            self._slow_until = time.monotonic() + _SLOW_FOR_S
            raise
        if pushed is None:
            return False
        took_s = time.monotonic() - asked
        if took_s < self._push_timeout_s:
            self._push_breaker.succeeded()
        if took_s > _QUICK_S:
            self._slow_until = time.monotonic() + _SLOW_FOR_S
        self._sessions.pushed(events)
        self._keep_pushed(pushed)
        metrics.tell_event_to_effect(time.monotonic() - began)
        return True

    @staticmethod
    def _push_failed(error: BaseException) -> str:
        _logger.warning("Feature store: %s", error)
        return f"the feature store failed; {_COUNT_LATER}"

    def _keep_pushed(self, pushed: Mapping[str, tuple[StoredFeatures, object | None]]) -> None:
        now = time.monotonic()
        for user_id, (features, stamp) in pushed.items():
            before = self._recall(user_id)
            after = self._keep(user_id, features, stamp, now).features
            if before is not None and after is not None and after is not before.features:
                self.changed(before.features, after)

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


def _least(timeout_s: float, within_s: float | None) -> float:
    return timeout_s if within_s is None else max(0.0, min(timeout_s, within_s))
