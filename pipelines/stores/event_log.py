"""The durable log of the events that the service accepted: embedded by default, Kafka by one setting.

The embedded log is a folder of append-only segments (`event_log_files.py`). An event is on the disk before it is
acknowledged, and everything that arrives together shares one write and one wait for the disk. Ingestion reads with a
cursor; segments before the one that the cursor of the newest accepted window names are read no more and may be
archived.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ConfigError, DataError, StoreError
from pipelines.schemas import EVENTS
from pipelines.stores.event_log_files import (
    Segment,
    append_durably,
    complete_size,
    encoded,
    records,
    segments,
    sync_folder,
)
from pipelines.stores.event_rows import (
    ARRIVAL,
    Event,
    newest_arrival,
    record_batches,
    require_contract,
    stamped,
    to_json,
)
from pipelines.stores.group_commit import GroupCommit

EVENT_LOG_VARIABLE = "HEADRACE_EVENT_LOG"
WRONG_CLOCK = timedelta(minutes=5)
"""An arrival that lies further ahead was stamped by a clock that was wrong: nothing waits for it."""
_SEGMENT_BYTES = 64 * 2**20
_CURSOR_KEY = "embedded"
_logger = logging.getLogger(__name__)


class EventsRead(NamedTuple):
    """What a reader with a cursor gets."""

    batches: Iterator[pa.RecordBatch]
    """Events in the EVENTS schema, in the order of the log; may be consumed once, in bounded memory."""
    cursor: dict[str, Any]
    """Where the next reading begins; fits into JSON, and means something to the log alone."""

    def reader(self) -> pa.RecordBatchReader:
        """Return the batches as Arrow and DuckDB take them: for one scan."""
        return pa.RecordBatchReader.from_batches(EVENTS, self.batches)


class EventLogStore(Protocol):
    """A durable log of events; safe for many threads and processes."""

    def append(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Make the events of one call durable before returning, all or none.

        Args:
            events: Columns of the EVENTS schema, timestamps as aware `datetime`. A `created_timestamp` that is
                already there is kept (imports).

        Returns:
            The events as they are stored, with their arrival.

        Raises:
            DataError: an event breaks the contract; nothing was accepted.
            StoreError: the store refused the write; nothing was acknowledged.
        """
        ...

    def read(self, since: datetime | None, until: datetime) -> pa.Table:
        """Return the events that arrived in `(since, until]`, oldest arrival first, in the EVENTS schema.

        Raises:
            DataError: `until` lies in the future: events that arrive before it would never be read.
            StoreError: the store does not answer.
        """
        ...

    def read_from(
        self, cursor: Mapping[str, Any] | None, until: datetime, *, since: datetime | None = None
    ) -> EventsRead:
        """Return the events behind the cursor that arrived up to `until`, and the cursor behind them.

        Whoever reads with the cursor that the reading before gave gets every event once: none is lost, none comes
        twice, also while others append. An event whose arrival was stamped by a clock that was wrong (over five
        minutes ahead) is given as it is instead of holding up those behind it.

        Args:
            cursor: From the reading before; None begins with the oldest event.
            until: The last arrival wanted; must be over.
            since: Without a cursor, leave out what arrived up to then: tables that were written before there were
                cursors hold it already.

        Raises:
            DataError: `until` lies in the future, or the log no longer holds what comes after the cursor.
            StoreError: the store does not answer.
        """
        ...


def open_event_log(folder: Path, environment: Mapping[str, str]) -> EventLogStore:
    """Open the log that `HEADRACE_EVENT_LOG` names; without it, the embedded one in `folder`.

    Raises:
        ConfigError: the address is none, or the Kafka client is not installed.
    """
    address = environment.get(EVENT_LOG_VARIABLE)
    if not address:
        return EventLog(folder)
    if address.startswith("kafka://"):
        from pipelines.stores.kafka_event_log import KafkaEventLog

        return KafkaEventLog.from_address(address)
    raise ConfigError(
        f"{EVENT_LOG_VARIABLE} is `{address}`: it must be kafka://host:9092,host2:9092/topic, or not be set, which "
        "keeps the events below HEADRACE_HOME."
    )


def utc_now() -> datetime:
    """Return the present, UTC."""
    return datetime.now(UTC)


def require_past(until: datetime, now: datetime) -> None:
    """Refuse to read until a time that is not over.

    Raises:
        DataError: `until` lies in the future.
    """
    if until > now:
        raise DataError(
            f"The event log cannot be read until {until.isoformat()}: it is {now.isoformat()} now, and events "
            "that arrive in between would be lost. Pass a time that is over."
        )


@dataclass(frozen=True)
class _Span:
    """A part of one segment; both offsets stand between two lines."""

    segment: Segment
    start: int
    end: int


class EventLog:
    """Events in segments below one folder; safe for many threads and processes of one machine."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
        segment_bytes: int = _SEGMENT_BYTES,
        require: Callable[[Sequence[Mapping[str, Any]], datetime], None] = require_contract,
    ) -> None:
        """Open the log; nothing is created before the first event.

        Args:
            segment_bytes: Size from which on a new segment is begun.
            require: Refuses what does not belong into this log, given the present: it raises a DataError. The log of
                items has another form than that of events.
        """
        self._folder = folder
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._require = require
        self._group = GroupCommit(self._commit)
        self._synced: Segment | None = None

    def append(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Write the events to the disk before returning; see `EventLogStore`.

        Arrival is stamped while the log is locked, so that a reader who asks for everything until now never misses
        an event that is still on its way to the disk.
        """
        if not events:
            return []
        self._require(events, self._clock())
        try:
            return self._group.submit(events)
        except OSError as error:
            raise StoreError(
                f"The event log {self._folder} cannot be written ({error.strerror or error}); "
                "nothing was accepted. Check the disk, then send the events again."
            ) from error

    def read(self, since: datetime | None, until: datetime) -> pa.Table:
        """Return the events that arrived in `(since, until]`; see `EventLogStore`."""
        _, spans = self._written(until)
        wanted = [span for span in spans if since is None or span.segment.day >= _day(since)]
        table = pa.Table.from_batches(self._batches(wanted, since=since, until=until), schema=EVENTS)
        return table.take(pc.sort_indices(table[ARRIVAL]))

    def read_from(
        self, cursor: Mapping[str, Any] | None, until: datetime, *, since: datetime | None = None
    ) -> EventsRead:
        """Return the events behind the cursor that arrived up to `until`; see `EventLogStore`."""
        now, spans = self._written(until)
        if cursor is not None:
            since = None
        with self._disk_errors():
            spans = self._before_later_arrivals(self._behind(cursor, spans), until, now)
        wanted = [span for span in spans if since is None or span.segment.day >= _day(since)]
        return EventsRead(self._batches(wanted, since=since), _cursor_behind(spans, cursor))

    def records_behind(
        self, cursor: Mapping[str, Any] | None, until: datetime | None = None
    ) -> tuple[Iterator[list[Event]], dict[str, Any]]:
        """Return what was appended behind the cursor, one list a call, and the cursor behind it.

        As `read_from`, but the rows are those of the JSON, whatever their form; without `until` up to now.

        Raises:
            DataError: `until` lies in the future, or the log no longer holds what comes after the cursor.
            StoreError: the disk does not answer.
        """
        now, spans = self._written(until)
        with self._disk_errors():
            spans = self._behind(cursor, spans)
            if until is not None:
                spans = self._before_later_arrivals(spans, until, now)
        return self._calls(spans), _cursor_behind(spans, cursor)

    def _calls(self, spans: list[_Span]) -> Iterator[list[Event]]:
        with self._disk_errors():
            for span in spans:
                yield from self._events(span)

    def _commit(self, calls: list[Sequence[Mapping[str, Any]]]) -> list[list[dict[str, Any]]]:
        """Append the events of all calls in one write."""
        with self._locked(fcntl.LOCK_EX):
            arrival = self._clock()
            stored = [stamped(events, arrival) for events in calls]
            segment = self._segment_to_append(arrival)
            path = self._folder / segment.name
            if segment != self._synced:  # another process may have made the file and died before it did this
                path.touch()
                sync_folder(self._folder)
                self._synced = segment
            append_durably(path, b"".join(encoded(to_json(events)) for events in stored))
            return stored

    def _segment_to_append(self, arrival: datetime) -> Segment:
        written = segments(self._folder)
        if not written or _day(arrival) > written[-1].day:
            return Segment(_day(arrival), 0)
        newest = written[-1]
        is_full = (self._folder / newest.name).stat().st_size >= self._segment_bytes
        return Segment(newest.day, newest.number + 1) if is_full else newest

    def _written(self, until: datetime | None) -> tuple[datetime, list[_Span]]:
        """Return the present and everything that was written by then, whole segments in order."""
        if not self._folder.is_dir():
            return self._present(until), []
        with self._disk_errors(), self._locked(fcntl.LOCK_SH):
            now = self._present(until)
            spans = [_Span(one, 0, (self._folder / one.name).stat().st_size) for one in segments(self._folder)]
            if spans:
                newest = spans[-1].segment
                spans[-1] = _Span(newest, 0, self._durable_size(newest))
        return now, spans

    def _present(self, until: datetime | None) -> datetime:
        now = self._clock()
        if until is not None:
            require_past(until, now)
        return now

    def _durable_size(self, segment: Segment) -> int:
        """Return the bytes of whole lines in the newest segment, after waiting for the disk.

        A writer may have been killed between its write and its wait: a cursor must not lie behind bytes that a
        power cut could still take away.
        """
        descriptor = os.open(self._folder / segment.name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            size, whole = os.fstat(descriptor).st_size, complete_size(descriptor)
        finally:
            os.close(descriptor)
        if size > whole:
            _logger.warning(
                "%s ends in the middle of a record at byte %d (torn by a crash, never acknowledged): it is skipped",
                segment.name,
                whole,
            )
        return whole

    def _behind(self, cursor: Mapping[str, Any] | None, spans: list[_Span]) -> list[_Span]:
        """Return what follows the cursor.

        Raises:
            DataError: the cursor's segment is gone or shorter than it was.
        """
        if cursor is None or not (position := cursor.get(_CURSOR_KEY)) or not position["segment"]:
            return spans
        name, offset = position["segment"], position["offset"]
        for index, span in enumerate(spans):
            if span.segment.name == name and offset <= span.end:
                return [_Span(span.segment, offset, span.end), *spans[index + 1 :]]
        found = "shorter" if any(span.segment.name == name for span in spans) else "not there"
        raise DataError(
            f"Ingestion read the event log up to byte {offset:,} of {self._folder / name}, and that segment is "
            f"{found}: put it back (only segments before it may be archived), then run `headrace ingest_tables` again."
        )

    def _before_later_arrivals(self, spans: list[_Span], until: datetime, now: datetime) -> list[_Span]:
        """Cut the spans before the first record that arrived after `until`."""
        for index, span in enumerate(spans):
            if span.segment.day < _day(until):
                continue
            for record in records(self._folder / span.segment.name, span.start, span.end):
                if record.events and until < newest_arrival(record.events) <= now + WRONG_CLOCK:
                    return [*spans[:index], _Span(span.segment, span.start, record.start)]
        return spans

    def _batches(
        self, spans: list[_Span], *, since: datetime | None, until: datetime | None = None
    ) -> Iterator[pa.RecordBatch]:
        with self._disk_errors():
            for batch in record_batches(events for span in spans for events in self._events(span)):
                arrival = batch[ARRIVAL]
                if since is not None:
                    batch = batch.filter(pc.greater(arrival, since))
                    arrival = batch[ARRIVAL]
                yield batch if until is None else batch.filter(pc.less_equal(arrival, until))

    def _events(self, span: _Span) -> Iterator[list[Event]]:
        for record in records(self._folder / span.segment.name, span.start, span.end):
            if record.events is not None:
                yield record.events
            else:
                _logger.warning(
                    "%s/%s: bytes %d to %d fail their checksum (torn by a crash or damaged on disk) and are skipped",
                    self._folder.name,
                    span.segment.name,
                    record.start,
                    record.end,
                )

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"The event log {self._folder} cannot be read ({error.strerror or error}). Check the disk, then run "
                "this again."
            ) from error

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the log's lock against other threads and processes."""
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self._folder.parent)
        with (self._folder / ".lock").open("a") as lock:
            fcntl.flock(lock, kind)
            yield


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


def _cursor_behind(spans: list[_Span], cursor: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the cursor at the end of the spans; what belongs to other logs stays in it."""
    others = dict(cursor or {})
    position = others.get(_CURSOR_KEY) or {"segment": "", "offset": 0}
    if spans:
        position = {"segment": spans[-1].segment.name, "offset": spans[-1].end}
    return {**others, _CURSOR_KEY: position}
