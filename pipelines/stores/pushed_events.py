"""Which events were pushed lately: by their ids, in a file that all processes of a machine share."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from pipelines.stores.shared_slots import SharedSlots

_SLOTS = 2**17
_BYTES = 8
_logger = logging.getLogger(__name__)


class PushedEvents:
    """Remembers some 100,000 ids, the newest; an older one is forgotten when another one takes its slot.

    The history of a user does not hold the ids of its events. Where an event looks like one that it holds, this tells
    whether it is the same one again, as a client or the service sends it after a failure, or another one.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet; the first push creates the file."""
        self._path = path
        self._slots = SharedSlots(path, slots=_SLOTS, slot_bytes=_BYTES)

    def has(self, event_id: str) -> bool | None:
        """Whether the event was pushed; None where that cannot be told."""
        number = _number(event_id)
        try:
            file = self._slots.open()
            return None if file is None else file.read(number % _SLOTS, _BYTES) == number
        except OSError:
            return None

    def add(self, event_ids: Iterable[str]) -> None:
        """Remember events. Never raises."""
        try:
            file = self._slots.open() or self._slots.create()
            for number in map(_number, event_ids):
                file.write(number % _SLOTS, _BYTES, number)
        except OSError as error:
            _logger.warning("Pushed events are not remembered in %s (%s)", self._path, error)


def _number(event_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=_BYTES).digest(), "little") or 1
