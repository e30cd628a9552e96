"""Group commit: threads that want something written at the same time share one write."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Given = TypeVar("Given")
Kept = TypeVar("Kept")


class _Call(Generic[Given, Kept]):
    """What one thread gave, and what became of it."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.kept: Kept | None = None
        self.error: Exception | None = None
        self.leads = False
        self.turn = threading.Lock()
        """Held until the call is done, or when it is this thread's turn to lead."""
        self.turn.acquire()


class GroupCommit(Generic[Given, Kept]):
    """Calls `commit` with everything that is waiting, one call at a time.

    The first thread to arrive leads: it commits what waits by then. Threads that arrive meanwhile wait, and one of
    them leads the next group. A thread that is alone never waits for others. `commit` returns one result for each
    thing given, in order; what it raises goes to every caller of the group.

    Source: group commit as in DeWitt et al. (1984), "Implementation techniques for main memory database systems".
    """

    def __init__(self, commit: Callable[[list[Given]], list[Kept]]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._waiting: list[_Call[Given, Kept]] = []
        self._is_led = False

    def submit(self, given: Given) -> Kept:
        """Return what `commit` returned for `given`, once it is committed.

        Raises:
            Exception: what `commit` raised.
        """
        call: _Call[Given, Kept] = _Call(given)
        with self._mutex:
            self._waiting.append(call)
            call.leads, self._is_led = not self._is_led, True
        if not call.leads:
            self._wait(call)
        if call.leads:
            self._lead(call)
        if call.error is not None:
            raise call.error
        return call.kept  # type: ignore[return-value]

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep the place of who commits, if nobody has it; gives whether it is kept.

        Those who come meanwhile wait, as for any other group.
        """
        with self._mutex:
            has_place, self._is_led = not self._is_led, True
        try:
            yield has_place
        finally:
            if has_place:
                self._pass_on()

    def _wait(self, call: _Call[Given, Kept]) -> None:
        try:
            call.turn.acquire()
        except BaseException:  # Ctrl-C while waiting: the others must not wait for a leader who has gone
            with self._mutex:
                if call in self._waiting:
                    self._waiting.remove(call)
            if call.leads:
                self._pass_on()
            raise

    def _lead(self, own: _Call[Given, Kept]) -> None:
        """Commit everything that waits, this thread's call included; then let the next group have its leader."""
        with self._mutex:
            group, self._waiting = self._waiting, []
        try:
            for call, kept in zip(group, self._commit([call.given for call in group]), strict=True):
                call.kept = kept
        except Exception as error:  # noqa: BLE001 - each caller gets it
            for call in group:
                call.error = error
        except BaseException as stopped:
            for call in group:
                call.error = RuntimeError(f"the thread that wrote for this one was stopped ({stopped!r})")
            raise
        finally:
            self._pass_on()
            for call in group:
                if call is not own:
                    call.turn.release()

    def _pass_on(self) -> None:
        with self._mutex:
            self._is_led = bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].turn.release()
