"""What a push is about to write: whoever comes after one that was killed meanwhile writes it to the end."""

import logging
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipelines.features.user_fold import UserRow

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

    def note(self, rows: Sequence[UserRow], event_ids: Iterable[str]) -> None:
        """Note what will be written. Never raises: without the note a push is only less safe."""
        body = orjson.dumps([rows, list(event_ids)])
        try:
            self._path.write_bytes(b"%08x %s" % (zlib.crc32(body), body))
        except OSError as error:
            _logger.warning("A push is not noted in %s (%s)", self._path, error)

    def clear(self) -> None:
        """Note that everything was written."""
        try:
            self._path.write_bytes(b"")
        except OSError as error:
            _logger.warning("A push is not noted as written in %s (%s)", self._path, error)

    def left(self) -> Intent | None:
        """Return the push that was not written to the end; None: there is none, or it had not begun to write."""
        try:
            checksum, _, body = self._path.read_bytes().partition(b" ")
        except OSError:
            return None
        if not body or checksum != b"%08x" % zlib.crc32(body):
            return None
        rows, event_ids = orjson.loads(body)
        return Intent([_with_times(row) for row in rows], event_ids)


def _with_times(row: dict[str, Any]) -> UserRow:
    return {**row, **{name: datetime.fromisoformat(row[name]) for name in _TIMES}}
