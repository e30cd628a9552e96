"""Events that are in the log but not in the online store: after a crash, or while the store did not answer.

One process of the machine looks every few seconds. It reads the log behind a checkpoint and pushes what nobody is
known to have pushed; a push of what the store has changes nothing.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from bentos.recommender.users.user_states import UserStates
from pipelines.errors import DamagedStateError, HeadraceError
from pipelines.features.history import is_remembered
from pipelines.stores.push_checkpoint import PushCheckpoint

_ON_THEIR_WAY = timedelta(seconds=1)
"""Younger events are being pushed by whoever accepted them."""
_EVENTS_AT_ONCE = 32
_TOLD_EVERY_S = 5.0
_COMPLAIN_EVERY_S = 60.0
_CLOSE_TIMEOUT_S = 5.0
_logger = logging.getLogger("headrace.serving")


class PushedStore(Protocol):
    """What catching up wants to know of the online store."""

    def has_pushed(self, event_id: str) -> bool:
        """Whether the event is known to have been pushed lately."""
        ...

    def sync(self) -> None:
        """Wait until the disk has what was pushed."""
        ...


class CatchingUp:
    """Follows the log on a thread of its own, if no other process of this machine does."""

    def __init__(
        self,
        checkpoint: PushCheckpoint,
        *,
        store: PushedStore,
        users: UserStates,
        lock: Path,
        interval_s: float,
        now: Callable[[], datetime],
    ) -> None:
        """Nothing is read yet.

        Args:
            lock: A file that the process holds which follows.
            interval_s: Time between two looks, seconds.
            now: The present, aware.
        """
        self._checkpoint = checkpoint
        self._store = store
        self._users = users
        self._lock = lock
        self._interval_s = interval_s
        self._now = now
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="catching-up", daemon=True)
        self._complained_at = -_COMPLAIN_EVERY_S

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what is not pushed yet will be after the next start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def catch_up(self) -> int:
        """Push what the online store lacks; return how many events that were.

        Raises:
            StoreError: the log or the online store does not answer; what was pushed stays.
        """
        trusts_pushes = self._checkpoint.same_boot()
        read = self._checkpoint.unread(self._now() - _ON_THEIR_WAY)
        if self._checkpoint.is_at(read.cursor):
            return 0
        progress = _Progress()
        events = (event for batch in read.batches for event in batch.to_pylist() if is_remembered(event))
        while some := list(islice(events, _EVENTS_AT_ONCE)):
            if self._stop.is_set():
                return progress.pushed
            lacking = [event for event in some if not (trusts_pushes and self._store.has_pushed(event["event_id"]))]
            if lacking:
                self._push(lacking)
            progress.tell(len(some), lacking)
        if progress.read:
            self._store.sync()
        self._checkpoint.advance(read.cursor)
        progress.finish()
        return progress.pushed

    def _push(self, events: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._users.push_again(events)
        except DamagedStateError as error:  # the next load of the online store mends it, and has these events
            _logger.warning("%s", error)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with _held(self._lock) as held:
                    while held and not self._stop.is_set():
                        self._catch_up()
                        self._stop.wait(self._interval_s)
            except OSError as error:
                self._complain(error)
            self._stop.wait(self._interval_s)

    def _catch_up(self) -> None:
        try:
            self.catch_up()
        except (HeadraceError, OSError) as error:
            self._complain(error)
        except Exception:  # whatever a store raises: the next look may be luckier
            _logger.exception("The online store was not brought up to date")

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained_at >= _COMPLAIN_EVERY_S:
            self._complained_at = time.monotonic()
            _logger.warning("The online store is not brought up to date, which is tried again: %s", error)


class _Progress:
    """Says in the log how far it is, where it takes long."""

    def __init__(self) -> None:
        self.read = 0
        self.pushed = 0
        self._told_at = time.monotonic()

    def tell(self, read: int, pushed: Sequence[Mapping[str, Any]]) -> None:
        """Count events that were read, and those of them that were pushed."""
        self.read += read
        if pushed and not self.pushed:
            _logger.warning("The event log has events that the online store lacks: they are pushed")
        self.pushed += len(pushed)
        if pushed and time.monotonic() - self._told_at >= _TOLD_EVERY_S:
            self._told_at = time.monotonic()
            arrived = pushed[-1]["created_timestamp"].isoformat(timespec="seconds")
            _logger.warning("%d events of the log were pushed, up to those that arrived at %s", self.pushed, arrived)

    def finish(self) -> None:
        """Say that nothing lacks any more."""
        if self.pushed:
            _logger.warning("The online store has all events of the log: %d were pushed", self.pushed)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a lock while another process does not; gives whether it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
