"""Which events were pushed lately: by their ids, in a file that all processes of a machine share."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.stores.shared_slots import SharedSlots

_PLACES = 2**14
_AT_A_PLACE = 8
_BYTES = 8
_ONE = (1 << 8 * _BYTES) - 1
_logger = logging.getLogger(__name__)


class PushedEvents:
    """Remembers some 100,000 ids, the newest; one is forgotten when eight newer ones came to its place.

    An id is known after 10,000 newer ones but for one in a million; with one at a place it was one in 14, and what was
    forgotten within seconds counted twice when the log was caught up with.

    The history of a user does not hold the ids of its events. Where an event looks like one that it holds, this tells
    whether it is the same one again, as a client or the service sends it after a failure, or another one.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet; the first push creates the file."""
        self._path = path
        self._slots = SharedSlots(path, slots=_PLACES, slot_bytes=_AT_A_PLACE * _BYTES)

    def has(self, event_id: str) -> bool | None:
        """Whether the event was pushed; None where that cannot be told."""
        number = _number(event_id)
        try:
            file = self._slots.open()
            found = None if file is None else file.read(number % _PLACES, _AT_A_PLACE * _BYTES)
        except OSError:
            return None
        return None if found is None else number in _numbers_in(found)

    def add(self, event_ids: Iterable[str]) -> None:
        """Remember events. Never raises."""
        try:
            file = self._slots.open() or self._slots.create()
            for number in map(_number, event_ids):
                place = number % _PLACES
                known = file.read(place, _AT_A_PLACE * _BYTES) or 0
                if number not in _numbers_in(known):
                    file.write(place, _AT_A_PLACE * _BYTES, known << 8 * _BYTES | number)
        except OSError as error:
            _logger.warning("Pushed events are not remembered in %s (%s)", self._path, error)


def _number(event_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=_BYTES).digest(), "little") or 1


def _numbers_in(found: int) -> Iterator[int]:
    """Return the ids at a place, the newest first."""
    return (found >> shift & _ONE for shift in range(0, 8 * _AT_A_PLACE * _BYTES, 8 * _BYTES))
