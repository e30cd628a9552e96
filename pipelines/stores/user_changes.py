"""Which users' online features changed: counters in one file, which all processes of a machine see at once.

The file is read and written with system calls, not mapped: a file that somebody cuts short would kill a process
that has it mapped.
"""

import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

Stamp = tuple[int, int]
"""Names a state of a user: the file that counted and its count."""
_SLOTS = 2**18
_SLOT = struct.Struct("<I")
_HEADER = struct.Struct("<8sQ")
_MAGIC = b"headrace"
_SIZE = _HEADER.size + _SLOTS * _SLOT.size
_logger = logging.getLogger(__name__)


class UserChanges:
    """Counts the changes of users; many share a slot, so a change of one may look like a change of another.

    A slot is odd while one of its users is being written, and stays so if the writer is killed meanwhile. Whoever
    writes holds a lock of its own against other writers; readers need none.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet; the first change creates the file."""
        self._path = path
        self._file: _CounterFile | None = None

    def stamp(self, user_id: str) -> Stamp | None:
        """Return what is another one after each change of the user; None: cannot be told. Never raises.

        Two system calls.
        """
        try:
            file = self._open()
            if file is None:
                return None
            count = file.read(_offset(user_id))
        except OSError:
            return None
        return None if count is None or count % 2 else (file.created, count)

    @contextmanager
    def changing(self, user_ids: Iterable[str]) -> Iterator[None]:
        """Count a change of the users, around the writing of them."""
        offsets = {_offset(user_id) for user_id in user_ids}
        file = self._begin(offsets)
        yield  # after an error nobody knows what was written: the slots stay odd until the next change
        if file is not None:
            self._end(file, offsets)

    def _begin(self, offsets: set[int]) -> "_CounterFile | None":
        try:
            file = self._open() or self._create()
            for offset in offsets:
                file.write(offset, (file.read(offset) or 0) | 1)
        except OSError as error:
            _logger.warning("Changes of users are not counted in %s (%s): they count late", self._path, error)
            return None
        return file

    def _end(self, file: "_CounterFile", offsets: set[int]) -> None:
        try:
            for offset in offsets:
                file.write(offset, ((file.read(offset) or 0) | 1) + 1)
        except OSError as error:
            _logger.warning("Changes of users are not counted in %s (%s): they are read each time", self._path, error)

    def _open(self) -> "_CounterFile | None":
        file = self._file
        if file is None or not file.is_whole():
            file = self._file = _CounterFile.opened(self._path)
        return file

    def _create(self) -> "_CounterFile":
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            new.write_bytes(_HEADER.pack(_MAGIC, int.from_bytes(os.urandom(8), "little")) + bytes(_SIZE - _HEADER.size))
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)
        file = self._open()
        if file is None:
            raise FileNotFoundError(f"{self._path} went away at once")
        return file


class _CounterFile:
    """The open file."""

    def __init__(self, descriptor: int, created: int) -> None:
        self._descriptor = descriptor
        self.created = created

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def opened(cls, path: Path) -> "_CounterFile | None":
        """Open the file; None where there is none, or another one."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        header = os.pread(descriptor, _HEADER.size, 0)
        if len(header) == _HEADER.size:
            magic, created = _HEADER.unpack(header)
            file = cls(descriptor, created)
            if magic == _MAGIC and file.is_whole():
                return file
        else:
            os.close(descriptor)
        return None

    def is_whole(self) -> bool:
        """Whether the file is still at its place and as long as it was."""
        status = os.fstat(self._descriptor)
        return status.st_nlink > 0 and status.st_size == _SIZE

    def read(self, offset: int) -> int | None:
        """Return a count; None where the file has become too short for it."""
        found = os.pread(self._descriptor, _SLOT.size, offset)
        return int(_SLOT.unpack(found)[0]) if len(found) == _SLOT.size else None

    def write(self, offset: int, count: int) -> None:
        os.pwrite(self._descriptor, _SLOT.pack(count & 0xFFFFFFFF), offset)


def _offset(user_id: str) -> int:
    return _HEADER.size + zlib.crc32(user_id.encode()) % _SLOTS * _SLOT.size
