"""Whether a process that has just started has worked off who had waited for it.

They come in waves: connections are made one after the other while requests are answered, and the first answers take
longer than later ones. So nobody may wait long in a lane although hundreds wait to be let in; but then the process has
no time to spare.
"""

import time
from collections.abc import Callable, Sequence

from bentos.recommender.http.admission import Lane

_LOOK_S = 0.25
"""Length of the spans that are looked at, and for how long no lane may have been crowded."""
_MOST_BUSY = 0.8
"""Share of a core that the process takes at most in a span in which it has time to spare."""
_MOST_S = 10.0
"""A process that is overloaded from the start is ready nonetheless: others would be all the more."""


class Settling:
    """Looks at a process whenever somebody asks, until it has settled once."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        """Take the lanes; the first question begins the first span."""
        self._lanes = lanes
        self._clock = clock
        self._cpu = cpu
        self._asked_at: float | None = None
        self._span = (0.0, 0.0)
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the requests that had waited for this process to start are worked off; once so, for good."""
        if not self._is_over:
            self._is_over = self._look()
        return self._is_over

    def _look(self) -> bool:
        now, used = self._clock(), self._cpu()
        if self._asked_at is None:
            self._asked_at, self._span = now, (now, used)
        began, used_before = self._span
        if now - self._asked_at >= _MOST_S:
            return True
        if now - began < _LOOK_S:
            return False
        self._span = now, used
        has_time = used - used_before <= _MOST_BUSY * (now - began)
        return has_time and all(lane.calm_for_s() >= _LOOK_S for lane in self._lanes)
