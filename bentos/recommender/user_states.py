"""What is known of the users, read with a limit on the wait: a slow or broken store never holds up an answer."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.inference.preprocessing import UserFeatures

_REMEMBERED_USERS = 10_000
_FEATURE_THREADS = 8
_logger = logging.getLogger("headrace.serving")


class OnlineFeatureStore(Protocol):
    """The online feature store, as the service uses it."""

    def read_user(self, user_id: str) -> UserFeatures:
        """Return what is known of a user (a pseudonym); empty lists for a stranger."""
        ...

    def push_events(self, events: Sequence[Mapping[str, Any]]) -> Any:
        """Add events to what is known of their users."""
        ...


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
