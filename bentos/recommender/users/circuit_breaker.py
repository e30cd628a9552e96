"""A circuit breaker: a store that fails again and again is left alone, but for one try now and then."""

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after some failures in a row and closes with the first success.

    Source: M. Nygard (2007), "Release It!", chapter 5.
    """

    def __init__(self, *, failures: int = 3, retry_s: float = 0.5, clock: Callable[[], float] = time.monotonic) -> None:
        """Closed at first.

        Args:
            failures: Failures in a row that open it.
            retry_s: Time from one try to the next while it is open, seconds.
        """
        self._failures = failures
        self._retry_s = retry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._next_try = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the store is left alone."""
        return self._in_a_row >= self._failures

    @property
    def lets_pass(self) -> bool:
        """Whether a call would be let through now."""
        return not self.is_open or self._clock() >= self._next_try

    def passes(self) -> bool:
        """Let a call through, or not: while it is open, one at a time and not too often."""
        with self._lock:
            if not self.is_open:
                return True
            now = self._clock()
            if now < self._next_try:
                return False
            self._next_try = now + self._retry_s
            return True

    def failed(self) -> None:
        """Learn of a call that failed, or took too long."""
        with self._lock:
            self._in_a_row += 1
            self._next_try = self._clock() + self._retry_s

    def succeeded(self) -> None:
        """Learn of a call that answered in time."""
        if self._in_a_row:
            with self._lock:
                self._in_a_row = 0
