"""Which users' online features changed: counters that all processes of a machine share."""

import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.stores.shared_slots import SharedSlots, SlotFile

Stamp = tuple[int, int]
"""Names a state of a user: the file that counted and its count."""
_SLOTS = 2**18
_BYTES = 4
_logger = logging.getLogger(__name__)


class UserChanges:
    """Counts the changes of users; many share a slot, so a change of one may look like a change of another.

    A slot is odd while one of its users is being written, and stays so if the writer is killed meanwhile. Whoever
    writes holds a lock of its own against other writers.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet; the first change creates the file."""
        self._path = path
        self._slots = SharedSlots(path, slots=_SLOTS, slot_bytes=_BYTES)

    def stamp(self, user_id: str) -> Stamp | None:
        """Return what is another one after each change of the user; None: cannot be told. Never raises."""
        try:
            file = self._slots.open()
            if file is None:
                return None
            count = file.read(_place(user_id), _BYTES)
        except OSError:
            return None
        return None if count is None or count % 2 else (file.created, count)

    @contextmanager
    def changing(self, user_ids: Iterable[str]) -> Iterator[None]:
        """Count a change of the users, around the writing of them."""
        places = {_place(user_id) for user_id in user_ids}
        file = self._begin(places)
        yield  # after an error nobody knows what was written: the slots stay odd until the next change
        if file is not None:
            self._end(file, places)

    def _begin(self, places: set[int]) -> SlotFile | None:
        try:
            file = self._slots.open() or self._slots.create()
            for place in places:
                file.write(place, _BYTES, (file.read(place, _BYTES) or 0) | 1)
        except OSError as error:
            _logger.warning("Changes of users are not counted in %s (%s): they count late", self._path, error)
            return None
        return file

    def _end(self, file: SlotFile, places: set[int]) -> None:
        try:
            for place in places:
                file.write(place, _BYTES, ((file.read(place, _BYTES) or 0) | 1) + 1)
        except OSError as error:
            _logger.warning("Changes of users are not counted in %s (%s): they are read each time", self._path, error)


def _place(user_id: str) -> int:
    return zlib.crc32(user_id.encode()) % _SLOTS
