"""Up to where the event log is known to be in the online store."""

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipelines.errors import DataError
from pipelines.schemas import Record
from pipelines.stores.event_log import EventLogStore, EventsRead
from pipelines.stores.files import write_text
from pipelines.stores.loaded_state import loaded_until

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_logger = logging.getLogger("headrace.serving")


class _Checkpoint(Record):
    """As it is stored."""

    cursor: dict[str, Any] = Field(description="Position in the event log, as the log gave it.")
    boot: str = Field(description="Which start of the machine wrote it; empty where that cannot be told.")


class PushCheckpoint:
    """Reads the log from where the last reading that was pushed ended; the first time from the last load on."""

    def __init__(self, feast_dir: Path, event_log: EventLogStore) -> None:
        """Look nowhere yet.

        Args:
            feast_dir: `Places.feast`, where the checkpoint lies.
        """
        self._feast_dir = feast_dir
        self._path = feast_dir / "pushed_until.json"
        self._event_log = event_log

    def same_boot(self) -> bool:
        """Whether the machine has not been started anew since: then what was written is there, synced or not."""
        checkpoint = self._read()
        return checkpoint is not None and checkpoint.boot == _boot() != ""

    def unread(self, until: datetime) -> EventsRead:
        """Return the events that may lack, up to the arrival `until`.

        Raises:
            StoreError: the log does not answer.
        """
        checkpoint = self._read()
        if checkpoint is not None:
            try:
                return self._event_log.read_from(checkpoint.cursor, until)
            except DataError as error:  # archived, or another log
                _logger.warning("%s Instead, what arrived since the last load of the online store is pushed.", error)
        return self._event_log.read_from(None, until, since=loaded_until(self._feast_dir))

    def is_at(self, cursor: Mapping[str, Any]) -> bool:
        """Whether the cursor is the remembered one: nothing was written behind it."""
        checkpoint = self._read()
        return checkpoint is not None and checkpoint.cursor == cursor

    def advance(self, cursor: Mapping[str, Any]) -> None:
        """Remember that everything before the cursor is in the online store, and on its disk.

        Raises:
            OSError: it cannot be written.
        """
        write_text(self._path, _Checkpoint(cursor=dict(cursor), boot=_boot()).model_dump_json())

    def _read(self) -> _Checkpoint | None:
        try:
            return _Checkpoint.model_validate_json(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError, UnicodeDecodeError):
            return None


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
