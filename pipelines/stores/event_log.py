"""The durable log of events that the service accepted: append-only files, one a day.

One line is one accepted call: the CRC-32 of the rest as eight hex digits, a space, and the events as a JSON list. A
line that a crash tore in two fails its checksum and is skipped: it was never acknowledged.
"""

import fcntl
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from pipelines.errors import DataError, StoreError
from pipelines.schemas import EVENTS

_TIMES = ("event_timestamp", "created_timestamp")
_logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Return the present, UTC."""
    return datetime.now(UTC)


class EventLog:
    """Events below one folder; safe for many threads and processes of one machine."""

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._folder = folder
        self._clock = clock
        self._thread_lock = threading.Lock()

    def append(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Write the events to disk before returning, all or none.

        Arrival (`created_timestamp`) is stamped while the log is locked, so that a reader who asks for
        everything until now never misses an event that is still on its way to the disk.

        Args:
            events: Columns of the EVENTS schema, timestamps as aware `datetime`. A `created_timestamp` that is
                already there is kept (imports).

        Returns:
            The events as they are stored.

        Raises:
            DataError: an event has a column that the contract does not know.
            StoreError: the disk refused the write.
        """
        if not events:
            return []
        unknown = {name for event in events for name in event} - set(EVENTS.names)
        if unknown:
            raise DataError(
                f"An event has the unknown columns {', '.join(sorted(unknown))}: leave them out "
                f"(known: {', '.join(EVENTS.names)})."
            )
        try:
            with self._locked(fcntl.LOCK_EX):
                arrival = self._clock()
                stored = [{**event, "created_timestamp": event.get("created_timestamp") or arrival} for event in events]
                by_day: dict[date, list[dict[str, Any]]] = {}
                for event in stored:
                    by_day.setdefault(event["created_timestamp"].astimezone(UTC).date(), []).append(event)
                for day, of_day in by_day.items():
                    self._write(self._folder / f"{day.isoformat()}.jsonl", of_day)
                return stored
        except OSError as error:
            raise StoreError(
                f"The event log {self._folder} cannot be written ({error.strerror or error}); "
                "nothing was accepted. Check the disk, then send the events again."
            ) from error

    def read(self, since: datetime | None, until: datetime) -> pa.Table:
        """Return the events that arrived in `(since, until]`, oldest arrival first, in the EVENTS schema.

        Raises:
            DataError: `until` lies in the future: events that arrive before it would never be read.
        """
        now = self._clock()
        if until > now:
            raise DataError(
                f"The event log cannot be read until {until.isoformat()}: it is {now.isoformat()} now, and events "
                "that arrive in between would be lost. Pass a time that is over."
            )
        rows: list[dict[str, Any]] = []
        if self._folder.is_dir():
            with self._locked(fcntl.LOCK_SH):
                for path in self._day_files(since, until):
                    for event in _events_of(path):
                        for column in _TIMES:
                            event[column] = datetime.fromisoformat(event[column])
                        created = event["created_timestamp"]
                        if created <= until and (since is None or created > since):
                            rows.append(event)
        rows.sort(key=lambda event: event["created_timestamp"])
        return pa.Table.from_pylist(rows, schema=EVENTS)

    def _day_files(self, since: datetime | None, until: datetime) -> list[Path]:
        first = since.astimezone(UTC).date().isoformat() if since else ""
        last = until.astimezone(UTC).date().isoformat()
        return sorted(path for path in self._folder.glob("*.jsonl") if first <= path.stem <= last)

    def _write(self, path: Path, events: list[dict[str, Any]]) -> None:
        body = orjson.dumps(events)
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        is_new = not path.exists()
        with path.open("ab+", buffering=0) as file:
            if not is_new and _ends_in_the_middle(file.fileno()):
                line = b"\n" + line  # closes what a crash tore; its checksum tells readers to skip it
            size = os.fstat(file.fileno()).st_size
            try:
                _write_all(file.fileno(), line)
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)  # a full disk must not leave half of a refused call
                raise
        if is_new:
            _sync_folder(self._folder)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the log's lock against threads and other processes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._thread_lock, (self._folder / ".lock").open("a") as lock:
            fcntl.flock(lock, kind)
            yield


def _events_of(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            checksum, _, body = line.rstrip(b"\n").partition(b" ")
            if checksum != b"%08x" % zlib.crc32(body):
                _logger.warning("%s line %d fails its checksum (torn by a crash) and is skipped", path.name, number)
                continue
            yield from orjson.loads(body)


def _ends_in_the_middle(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
