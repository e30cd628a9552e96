"""The durable log of the items that the service was told of: what they are now, and which are no more.

It has the segments of the event log. A line is one accepted call, a row one change: the columns of the ITEMS schema
but `updated_at`, which is the arrival, or `item_id` and `deleted`. Services follow the log with a cursor of their own;
`ingest_tables` takes it into the items table. Every bundle names the place up to which its catalogue knows the log, so
whoever opens one reads on from there; segments before that of the oldest bundle that may serve again are read no more.
"""

import logging
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from pipelines.errors import DataError, StoreError
from pipelines.schemas import ITEMS
from pipelines.stores.event_log import EventLog, utc_now
from pipelines.stores.event_log_files import segments
from pipelines.stores.event_rows import ARRIVAL
from pipelines.stores.files import write_text

Change = dict[str, Any]
"""One row: an item as it is now, or `deleted`."""
DELETED = "deleted"
_STAMPED = "updated_at"
_COLUMNS = frozenset({*ITEMS.names, DELETED, ARRIVAL}) - {_STAMPED}
_IDENTITY, _KEY = "log.id", "log"
_SEGMENT_BYTES = 64 * 2**20
_logger = logging.getLogger(__name__)


class ItemLog:
    """Changes of items in segments below one folder; safe for many threads and processes of one machine."""

    def __init__(
        self, folder: Path, *, clock: Callable[[], datetime] = utc_now, segment_bytes: int = _SEGMENT_BYTES
    ) -> None:
        """Open the log; nothing is created before the first change."""
        self._folder = folder
        self._log = EventLog(folder, clock=clock, segment_bytes=segment_bytes, require=require_changes)
        self._identified = False

    def append(self, changes: Sequence[Mapping[str, Any]]) -> list[Change]:
        """Make the changes of one call durable before returning, all or none.

        Returns:
            The changes as they are stored, with their arrival.

        Raises:
            DataError: a change has not the form of the log; nothing was accepted.
            StoreError: the disk refused the write; nothing was accepted.
        """
        try:
            self._identify()
            return self._log.append(changes)
        except (StoreError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            raise StoreError(
                f"The item log {self._folder} cannot be written ({getattr(cause, 'strerror', None) or cause}); nothing "
                "was accepted. Check the disk, then send the items again."
            ) from error

    def stamp(self) -> tuple[str, int] | None:
        """Return what changes whenever something is appended: newest segment and its bytes; looks without a lock."""
        try:
            written = segments(self._folder)
            return (written[-1].name, (self._folder / written[-1].name).stat().st_size) if written else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def behind(
        self, cursor: Mapping[str, Any] | None, until: datetime | None = None
    ) -> tuple[dict[str, Change], dict[str, Any]]:
        """Return the last state of each item that changed behind the cursor, oldest first, and the next cursor.

        Memory is bounded by the number of distinct items. An item that was sent and then deleted has its columns and
        `deleted`. A cursor of another log, or one whose segment is gone, counts as none: an item's state may be read
        twice.

        Args:
            until: The last arrival wanted; None reads up to now.

        Raises:
            DataError: `until` lies in the future.
            StoreError: the disk does not answer.
        """
        states: dict[str, Change] = {}
        changes, after = self._read(cursor, until)
        for change in changes:
            item_id = change["item_id"]
            before = states.pop(item_id, None)
            states[item_id] = {**(before or {}), **change} if change.get(DELETED) else change
        return states, after

    def _read(
        self, cursor: Mapping[str, Any] | None, until: datetime | None
    ) -> tuple[Iterator[Change], dict[str, Any]]:
        identity = self._read_identity()
        known = cursor if cursor and cursor.get(_KEY) == identity else None
        try:
            calls, after = self._log.records_behind(known, until)
        except DataError as error:
            if known is None:
                raise
            _logger.warning("The item log is read from its start: %s", error)
            calls, after = self._log.records_behind(None, until)
        return (change for call in calls for change in call), {**after, _KEY: identity}

    def _identify(self) -> None:
        """Give the log an id, so that a cursor of another machine's log does not count."""
        if not self._identified and self._read_identity() is None:
            write_text(self._folder / _IDENTITY, uuid.uuid4().hex)
        self._identified = True

    def _read_identity(self) -> str | None:
        try:
            return (self._folder / _IDENTITY).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


def require_changes(changes: Sequence[Mapping[str, Any]], _now: datetime) -> None:
    """Refuse what nobody could read again.

    Raises:
        DataError: a column is unknown, missing or of another type.
    """
    for index, change in enumerate(changes):
        where = f"Item {index} of the call"
        if unknown := set(change) - _COLUMNS:
            raise DataError(f"{where} has the unknown columns {', '.join(sorted(unknown))}: leave them out.")
        texts = [change.get("item_id")]
        if not change.get(DELETED):
            texts += [
                change.get("title"),
                *(pair for name in (change.get("attributes") or {}).items() for pair in name),
            ]
            price = change.get("price")
            if not isinstance(change.get("available"), bool) or not (price is None or math.isfinite(price)):
                raise DataError(f"{where} needs `available` (true or false) and a finite `price` or none: correct it.")
        if not all(isinstance(text, str) for text in texts) or not texts[0]:
            raise DataError(f"{where} needs an `item_id`, a `title` and attributes that are text: correct it.")
    try:
        orjson.dumps([*map(dict, changes)])
    except TypeError as error:
        raise DataError(f"The items do not fit into JSON ({error}): correct them.") from None
