"""What a push is about to write: whoever comes after one that was killed meanwhile writes it to the end."""

import logging
import os
import struct
import weakref
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from pipelines.features.user_fold import UserRow

_HEAD = struct.Struct("<QQ")
_TIMES = ("event_timestamp", "created_timestamp")
_logger = logging.getLogger(__name__)


class Intent(NamedTuple):
    """A push that may have been written in part."""

    rows: list[UserRow]
    event_ids: list[str]


class PushIntent:
    """A small file; whoever uses it holds the lock of pushes."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._file: BinaryIO | None = None

    def note(self, rows: Sequence[UserRow], event_ids: Iterable[str]) -> None:
        """Note what will be written. Never raises: without the note a push is only less safe."""
        body = orjson.dumps([rows, list(event_ids)])
        try:
            self._write(_HEAD.pack(len(body), zlib.crc32(body)) + body)
        except OSError as error:
            _logger.warning("A push is not noted in %s (%s)", self._path, error)

    def clear(self) -> None:
        """Note that everything was written."""
        try:
            self._write(_HEAD.pack(0, 0))
        except OSError as error:
            _logger.warning("A push is not noted as written in %s (%s)", self._path, error)

    def left(self) -> Intent | None:
        """Return the push that was not written to the end; None: there is none, or it had not begun to write."""
        try:
            file = self._open()
            size, checksum = _HEAD.unpack(os.pread(file.fileno(), _HEAD.size, 0).ljust(_HEAD.size, b"\0"))
            body = os.pread(file.fileno(), size, _HEAD.size) if size else b""
        except OSError:
            return None
        if not body or len(body) != size or zlib.crc32(body) != checksum:
            return None
        rows, event_ids = orjson.loads(body)
        return Intent([_with_times(row) for row in rows], event_ids)

    def _write(self, data: bytes) -> None:
        os.pwrite(self._open().fileno(), data, 0)

    def _open(self) -> BinaryIO:
        """Return the file that lies at its place."""
        if self._file is None or not os.fstat(self._file.fileno()).st_nlink:
            if self._file is not None:
                self._file.close()
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", 0)
            weakref.finalize(self, self._file.close)
        return self._file


def _with_times(row: dict[str, Any]) -> UserRow:
    return {**row, **{name: datetime.fromisoformat(row[name]) for name in _TIMES}}
