"""Who is answered next, and who is refused because there are too many: bounded queues in the order of arrival.

A request is refused when its head has come, before it costs a task (`connections.py` asks `lets_in`), or when it wants
its turn (`enter`). The event loop takes in all heads that have come before any of them is answered, because answering
gives way to the loop once per request: so all are counted, and those beyond the capacity are refused at once.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from bentos.recommender.telemetry import metrics

_NEWEST_WEIGHT = 0.05
"""Weight of the latest request in the running mean of the time that one takes."""

_MOST_TIMES, _LEAST_S = 10.0, 0.005
"""A request counts for at most so many times the mean so far (or so many seconds): one in which the process stood still
says nothing of the next ones, while many slow ones are believed within a dozen."""
_LONG_S = 0.1
"""Who waits for so long is in a crowd; a shorter wait is that of requests which come at random."""
_TELL_INTERVAL_S = 10.0
_logger = logging.getLogger("headrace.serving")


class OverloadedError(Exception):
    """A request is refused because there are too many; `why` is one of the few labels of the metric."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class ClientGoneError(Exception):
    """The client left: there is nobody to answer."""


class Client(Protocol):
    """Who waits for an answer."""

    turn: "asyncio.Future[float] | None"
    """What it waits for; whoever learns that it left ends this with `ClientGoneError`."""


class Lane:
    """At most `slots` requests are answered at a time, the others wait in the order of arrival.

    A request is refused when `max_waiting` wait already, or when those ahead of it will take longer than `max_wait_s`
    by the running mean. Who did wait that long when its turn comes is refused if the others still will: a moment in
    which the process stood still is no overload. For the tasks of one event loop.
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
        self._waiting: deque[tuple[float, asyncio.Future[float]]] = deque()
        self._n_waiting = 0
        self._coming = 0
        self._mean_s = 0.0
        self._crowded_at = -math.inf
        self._tell_at = clock()
        self._in_progress = metrics.IN_PROGRESS.labels(name)
        self._shed: dict[str, Any] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._n_waiting

    def calm_for_s(self) -> float:
        """Return for how long nobody has waited long or was refused; infinite where it never came to that."""
        now = self._clock()
        if self._waiting and now - self._waiting[0][0] > _LONG_S:
            return 0.0
        return now - self._crowded_at

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered; also for other threads."""
        return self._busy > 0

    @property
    def is_free(self) -> bool:
        """Whether who comes now need not wait."""
        return self._busy + self._coming < self._slots

    def lets_in(self) -> bool:
        """Whether a request whose head has come is to be read; it then counts until the loop has given it its task."""
        if (why := self._too_many()) is not None:
            self._count(why)
            return False
        if not self._coming:
            asyncio.get_running_loop().call_soon(self._all_came)  # runs before the tasks that are made from now on
        self._coming += 1
        return True

    async def enter(self, client: Client | None = None) -> float:
        """Wait for the turn; returns when it came, for `leave`.

        Args:
            client: Who waits, if it may leave meanwhile.

        Raises:
            OverloadedError: there are too many, or the turn came too late.
            ClientGoneError: the client left.
        """
        if self._busy < self._slots:
            self._busy += 1
            self._in_progress.inc()
            entered = self._clock()
            try:
                await asyncio.sleep(0)  # those that arrived together are counted before the first is answered
            except asyncio.CancelledError:
                self._pass_on()
                raise
            return entered
        if (why := self._too_many()) is not None:
            self._count(why)
            raise OverloadedError(why)
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._clock(), turn))
        self._n_waiting += 1
        self._in_progress.inc()
        if client is not None:
            client.turn = turn
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._gives_up()
            else:  # the turn had just come
                self._pass_on()
            raise
        except ClientGoneError:
            self._gives_up()
            raise
        finally:
            if client is not None:
                client.turn = None

    def enter_soon(
        self, ready: Callable[[float], object], refused: Callable[[Exception], object], client: Client
    ) -> None:
        """Do as `enter` for a request that `lets_in` has just let in and that has no task.

        Args:
            ready: Called when the turn has come, with when that was, for `leave`.
            refused: Called with an `OverloadedError` where the turn came too late.
            client: Who waits; where it leaves meanwhile, nothing is called.
        """
        if self._coming:
            self._coming -= 1
        self._in_progress.inc()
        loop = asyncio.get_running_loop()
        if self._busy < self._slots:
            self._busy += 1
            loop.call_soon(ready, self._clock())  # those that arrived together are counted before it is answered
            return
        client.turn = turn = loop.create_future()
        self._waiting.append((self._clock(), turn))
        self._n_waiting += 1

        def came(turn: "asyncio.Future[float]") -> None:
            client.turn = None
            error = turn.exception()
            if error is None:
                ready(turn.result())
            elif isinstance(error, ClientGoneError):
                self._gives_up()
            else:
                refused(error)  # type: ignore[arg-type]

        turn.add_done_callback(came)

    def leave(self, entered: float, *, counts: bool = True) -> None:
        """Give the place to the next one; `counts` says whether this one tells how long others will take."""
        if counts:
            took_s = min(self._clock() - entered, max(_MOST_TIMES * self._mean_s, _LEAST_S))
            self._mean_s += _NEWEST_WEIGHT * (took_s - self._mean_s)
        self._pass_on()

    def _pass_on(self) -> None:
        self._in_progress.dec()
        now = self._clock()
        while self._waiting:
            arrived, turn = self._waiting.popleft()
            if turn.done():
                continue
            self._n_waiting -= 1
            if now - arrived > _LONG_S:
                self._crowded_at = now
            if now - arrived > self._max_wait_s and self._takes_s(self._n_waiting) > self._max_wait_s:
                self._in_progress.dec()
                self._count("waited_too_long")
                turn.set_exception(OverloadedError("waited_too_long"))
                continue
            turn.set_result(now)
            return
        self._busy -= 1

    def _too_many(self) -> str | None:
        """Say why one more is refused; None where it is not."""
        ahead = self._n_waiting + self._coming - (self._slots - self._busy)
        if ahead < 0:
            return None
        if ahead >= self._max_waiting:
            return "queue_full"
        return "would_wait_too_long" if self._takes_s(ahead + 1) > self._max_wait_s else None

    def _takes_s(self, requests: int) -> float:
        return requests * self._mean_s / self._slots

    def _all_came(self) -> None:
        self._coming = 0

    def _gives_up(self) -> None:
        self._n_waiting -= 1
        self._in_progress.dec()

    def _count(self, why: str) -> None:
        counter = self._shed.get(why)
        if counter is None:
            counter = self._shed[why] = metrics.SHED.labels(self.name, why)
        counter.inc()
        self._crowded_at = now = self._clock()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_INTERVAL_S
            _logger.warning("Requests are refused (lane %s, %s): there are too many", self.name, why)
