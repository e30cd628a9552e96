"""Calls to a store that may hang: on threads of their own, so that whoever wants an answer can stop waiting."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Answer = TypeVar("Answer")

_STUCK_S = 1.0
"""A call that has lasted so long holds up its thread: another one is started for those that wait."""


class PatientCalls(Generic[Answer]):
    """A few daemon threads; those that hang are replaced, within bounds, and go on when their call returns."""

    def __init__(self, name: str, *, threads: int = 8, stuck_threads: int = 24, waiting: int = 256) -> None:
        """No thread is started before it is needed.

        Args:
            threads: Threads that are not stuck, at most.
            stuck_threads: Threads that may be stuck beside them.
            waiting: Calls that may wait for a thread.
        """
        self._name = name
        self._threads = threads
        self._most = threads + stuck_threads
        self._most_waiting = waiting
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Answer], Callable[[], Answer]]] = deque()
        self._busy_since: dict[int, float] = {}
        self._alive = 0
        self._idle = 0
        self._closed = False

    def submit(self, call: Callable[[], Answer]) -> Future[Answer] | None:
        """Let a thread make the call; None where too many wait for one already."""
        future: Future[Answer] = Future()
        with self._changed:
            if self._closed or len(self._calls) >= self._most_waiting:
                return None
            self._calls.append((future, call))
            if self._idle >= len(self._calls):
                self._changed.notify()
            elif self._alive - self._stuck() < self._threads and self._alive < self._most:
                self._alive += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Let the threads end; calls that nobody has begun are given up."""
        with self._changed:
            self._closed = True
            while self._calls:
                self._calls.popleft()[0].cancel()
            self._changed.notify_all()

    def _stuck(self) -> int:
        before = time.monotonic() - _STUCK_S
        return sum(since < before for since in self._busy_since.values())

    def _run(self) -> None:
        me = threading.get_ident()
        while True:
            with self._changed:
                self._busy_since.pop(me, None)
                self._idle += 1
                while not self._calls and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if self._closed:
                    self._alive -= 1
                    return
                future, call = self._calls.popleft()
                self._busy_since[me] = time.monotonic()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                    future.set_exception(error)
            del future, call
