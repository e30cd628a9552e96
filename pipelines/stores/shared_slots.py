"""A small file of numbers that all processes of a machine see at once.

It is read and written with system calls, not mapped: a file that somebody cuts short would kill a process that has
it mapped. Whoever writes holds a lock of its own against other writers; readers need none.
"""

import os
import struct
from pathlib import Path

_HEADER = struct.Struct("<8sQ")
_MAGIC = b"headrace"


class SharedSlots:
    """Numbers by place, all 0 at first."""

    def __init__(self, path: Path, *, slots: int, slot_bytes: int) -> None:
        """Nothing is opened yet; `create` makes the file."""
        self._path = path
        self._size = _HEADER.size + slots * slot_bytes
        self._opened: SlotFile | None = None

    def open(self) -> "SlotFile | None":
        """Return the file that lies there now; None where there is none, or no whole one.

        Two system calls at most while it stays the same.

        Raises:
            OSError: it cannot be told.
        """
        file = self._opened
        if file is None or not file.is_whole(self._size):
            file = self._opened = self._open()
        return file

    def create(self) -> "SlotFile":
        """Make a new file in the place of what is there.

        Raises:
            OSError: it cannot be written.
        """
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            new.write_bytes(_HEADER.pack(_MAGIC, int.from_bytes(os.urandom(8), "little")).ljust(self._size, b"\0"))
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)
        file = self.open()
        if file is None:
            raise FileNotFoundError(f"{self._path} went away at once")
        return file

    def _open(self) -> "SlotFile | None":
        try:
            file = SlotFile(os.open(self._path, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        magic, file.created = _HEADER.unpack(file.bytes_at(0, _HEADER.size).ljust(_HEADER.size, b"\0"))
        return file if magic == _MAGIC and file.is_whole(self._size) else None


class SlotFile:
    """The open file."""

    created = 0
    """Names the file: another one has another number."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    def is_whole(self, size: int) -> bool:
        """Whether the file is still at its place and as long as it was."""
        status = os.fstat(self._descriptor)
        return status.st_nlink > 0 and status.st_size == size

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Return what stands there; fewer bytes where the file was cut short."""
        return os.pread(self._descriptor, size, offset)

    def read(self, place: int, slot_bytes: int) -> int | None:
        """Return a number; None where the file was cut short."""
        found = self.bytes_at(_HEADER.size + place * slot_bytes, slot_bytes)
        return int.from_bytes(found, "little") if len(found) == slot_bytes else None

    def write(self, place: int, slot_bytes: int, number: int) -> None:
        """Write a number; its upper bits are cut off."""
        number &= (1 << 8 * slot_bytes) - 1
        os.pwrite(self._descriptor, number.to_bytes(slot_bytes, "little"), _HEADER.size + place * slot_bytes)
