"""Who is answered next, and who is refused because there are too many: bounded queues in the order of arrival.

The event loop gives each request its task before any of them is answered, because answering gives way to the loop
once per request: so all that have arrived are counted and stamped, and those beyond the capacity are refused at once.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from bentos.recommender.telemetry import metrics

_NEWEST_WEIGHT = 0.05
"""Weight of the latest request in the running mean of the time that one takes."""

_TELL_INTERVAL_S = 10.0
_logger = logging.getLogger("headrace.serving")


class OverloadedError(Exception):
    """A request is refused because there are too many; `why` is one of the few labels of the metric."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Lane:
    """At most `slots` requests are answered at a time, the others wait in the order of arrival.

    A request is refused when `max_waiting` wait already, when those ahead of it will take longer than `max_wait_s` by
    the running mean, or when its turn comes later than that. For the tasks of one event loop.
    """

    def __init__(
        self,
        name: str,
        *,
        slots: int,
        max_waiting: int,
        max_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._slots = slots
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._busy = 0
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._mean_s = 0.0
        self._tell_at = clock()
        self._in_progress = metrics.IN_PROGRESS.labels(name)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered; also for other threads."""
        return self._busy > 0

    async def enter(self) -> float:
        """Wait for the turn; returns when it came, for `leave`.

        Raises:
            OverloadedError: there are too many, or the turn came too late.
        """
        if self._busy < self._slots:
            self._busy += 1
            self._in_progress.inc()
            try:
                await asyncio.sleep(0)  # those that arrived together are counted before the first is answered
            except asyncio.CancelledError:
                self._pass_on()
                raise
            return self._clock()
        if len(self._waiting) >= self._max_waiting:
            raise self._refused("queue_full")
        if (len(self._waiting) + 1) * self._mean_s / self._slots > self._max_wait_s:
            raise self._refused("would_wait_too_long")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._clock(), turn))
        self._in_progress.inc()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._in_progress.dec()
            else:  # the turn had just come
                self._pass_on()
            raise
        except OverloadedError:
            self._in_progress.dec()
            raise
        return self._clock()

    def leave(self, entered: float, *, counts: bool = True) -> None:
        """Give the place to the next one; `counts` says whether this one tells how long others will take."""
        if counts:
            self._mean_s += _NEWEST_WEIGHT * (self._clock() - entered - self._mean_s)
        self._pass_on()

    def _pass_on(self) -> None:
        self._in_progress.dec()
        now = self._clock()
        while self._waiting:
            arrived, turn = self._waiting.popleft()
            if turn.done():
                continue
            if now - arrived > self._max_wait_s:
                turn.set_exception(self._refused("waited_too_long"))
                continue
            turn.set_result(None)
            return
        self._busy -= 1

    def _refused(self, why: str) -> OverloadedError:
        metrics.SHED.labels(self.name, why).inc()
        if (now := self._clock()) >= self._tell_at:
            self._tell_at = now + _TELL_INTERVAL_S
            _logger.warning("Requests are refused (lane %s, %s): there are too many", self.name, why)
        return OverloadedError(why)
