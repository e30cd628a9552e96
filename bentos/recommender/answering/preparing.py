"""Users are prepared again when an event of theirs comes, so that their next answer costs no more than the others.

Only those whom this worker answered since their last event, the newest event first, on one thread that begins with
nobody while a request is there. What is not reached in time is found when they ask, as for everybody else.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.telemetry import metrics
from pipelines.config import ServingConfig
from pipelines.inference.preprocessing import UserFeatures
from pipelines.ranking.answers import prepare

_LOOK_S = 0.002
"""Between two users, and between two looks whether requests are there."""
_PATIENCE_S = 5.0
"""Who has waited for so long is let go: the service has no time to spare."""
_CLOSE_TIMEOUT_S = 2.0
_logger = logging.getLogger("headrace.serving")


@dataclass(frozen=True)
class _Waiting:
    """A user who waits to be prepared."""

    features: UserFeatures
    with_candidates: bool
    """Whether a recommendation was asked for before, and not only searches."""
    since: float
    """Monotonic, seconds."""


class Preparing:
    """The thread, and who waits for it."""

    def __init__(self, live: LiveBundle, serving: ServingConfig, *, now: Callable[[], datetime]) -> None:
        """Wait for changes; the thread starts with the first one."""
        self._live = live
        self._serving = serving
        self._now = now
        self._is_busy: Callable[[], bool] = lambda: False
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._doing: _Waiting | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def give_way(self, is_busy: Callable[[], bool]) -> None:
        """Begin with nobody while that says that requests are there."""
        self._is_busy = is_busy

    def changed(self, before: UserFeatures, after: UserFeatures) -> None:
        """Take note that an event has changed what is known of a user."""
        if self._serving.prepared_ahead == 0:
            return
        with self._changed:
            if self._closed:
                return
            waits = self._waiting.pop(id(before), None)
            if waits is None and self._doing is not None and self._doing.features is before:
                waits = self._doing
            asked = waits.with_candidates if waits is not None else self._asked(before)
            if asked is None:
                return
            self._waiting[id(after)] = _Waiting(after, asked, time.monotonic())
            if len(self._waiting) > self._serving.prepared_ahead:
                self._waiting.popitem(last=False)
                metrics.PREPARED_AHEAD.labels("dropped").inc()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="preparing", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def _asked(self, before: UserFeatures) -> bool | None:
        """Return whether a user was answered with candidates (True), without (False), or not since that change."""
        serving = self._live.current
        user = serving.prepared(self._serving).user(serving.bundle, before)
        return None if user is None else user.candidates is not None

    def _run(self) -> None:
        while (one := self._next()) is not None:
            outcome = "done"
            try:
                self._prepare(one)
            except Exception:  # whoever asks is answered, or falls back, as without this
                _logger.exception("A user was not prepared")
                outcome = "failed"
            metrics.PREPARED_AHEAD.labels(outcome).inc()

    def _prepare(self, one: _Waiting) -> None:
        """Prepare a user; apart, so that between two of them nothing here holds a bundle."""
        serving = self._live.current
        prepare(
            serving.bundle,
            one.features,
            now_s=self._now().timestamp(),
            serving=self._serving,
            prepared=serving.prepared(self._serving),
            with_candidates=one.with_candidates,
        )

    def _next(self) -> _Waiting | None:
        """Return who is next, once no request is there; None at the end."""
        while True:
            with self._changed:
                self._doing = None
                while not self._waiting and not self._closed:
                    self._changed.wait()
            # Also between two users: a thread that lets go of the interpreter and takes it again at once, as NumPy
            # does, can keep the event loop from it for as long as it goes on.
            time.sleep(_LOOK_S)
            with self._changed:
                if self._closed:
                    return None
                if self._waiting and not self._is_busy():
                    _, self._doing = self._waiting.popitem()
                    return self._doing
                self._let_go()

    def _let_go(self) -> None:
        """Forget those who have waited for too long."""
        before = time.monotonic() - _PATIENCE_S
        while self._waiting and next(iter(self._waiting.values())).since < before:
            self._waiting.popitem(last=False)
            metrics.PREPARED_AHEAD.labels("dropped").inc()
