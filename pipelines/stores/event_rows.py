"""Events on their way into a log and out of it: checked, stamped, as JSON, as Arrow batches."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa

from pipelines.errors import DataError
from pipelines.schemas import EVENTS, TIMESTAMP

BATCH_ROWS = 20_000
"""Events in one batch at most: some 10 MB."""
ARRIVAL = "created_timestamp"
_REQUIRED = tuple(field.name for field in EVENTS if not field.nullable and field.name != ARRIVAL)
_AS_JSON = pa.struct([field.with_type(pa.string()) if field.type == TIMESTAMP else field for field in EVENTS])
_logger = logging.getLogger(__name__)

Event = dict[str, Any]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_small_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None


_TYPES: dict[pa.DataType, tuple[Callable[[object], bool], str]] = {
    pa.string(): (_is_text, "text"),
    pa.int32(): (_is_small_integer, "an integer of 32 bits"),
    pa.float32(): (_is_number, "a finite number"),
    pa.float64(): (_is_number, "a finite number"),
    TIMESTAMP: (_is_moment, "a `datetime` with a time zone"),
}
_FITS = {field.name: _TYPES[field.type][0] for field in EVENTS}
_KINDS = {field.name: _TYPES[field.type][1] for field in EVENTS}


def require_contract(events: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Refuse events that nobody could read again: a log keeps what it accepted forever.

    Args:
        events: Columns of the EVENTS schema, timestamps as aware `datetime`.
        now: No arrival (`created_timestamp`) may be later.

    Raises:
        DataError: a column is unknown, missing, or of another type; a time has no zone; an arrival lies ahead.
    """
    unknown = {name for event in events for name in event} - set(EVENTS.names)
    if unknown:
        raise DataError(
            f"An event has the unknown columns {', '.join(sorted(unknown))}: leave them out "
            f"(known: {', '.join(EVENTS.names)})."
        )
    for index, event in enumerate(events):
        missing = [name for name in _REQUIRED if event.get(name) is None]
        if missing:
            raise DataError(f"Event {index} has no {', '.join(missing)}: every event needs {', '.join(_REQUIRED)}.")
        for name, value in event.items():
            if value is not None and not _FITS[name](value):
                raise DataError(f"Event {index} has the `{name}` {value!r:.80}: it must be {_KINDS[name]}.")
        arrival = event.get(ARRIVAL)
        if arrival is not None and arrival > now:
            raise DataError(
                f"Event {index} has the `{ARRIVAL}` {arrival.isoformat()}, it is {now.isoformat()} now: leave it out, "
                "the log stamps the arrival."
            )
    try:
        orjson.dumps([*map(dict, events)])
    except TypeError as error:
        raise DataError(f"The events do not fit into JSON ({error}): correct them.") from None


def stamped(events: Sequence[Mapping[str, Any]], arrival: datetime) -> list[Event]:
    """Return the events with their arrival; one that an import brought with it is kept."""
    return [{**event, ARRIVAL: event.get(ARRIVAL) or arrival} for event in events]


def to_json(events: Sequence[Event]) -> bytes:
    """Return stamped events as a JSON list in one line."""
    return orjson.dumps(events)


def from_json(body: bytes) -> list[Event] | None:
    """Return the events of a JSON list, their times as text; None for anything else."""
    try:
        events: list[Event] = orjson.loads(body)
        newest_arrival(events)
    except (ValueError, TypeError, KeyError):
        return None
    return events


def newest_arrival(events: Sequence[Event]) -> datetime:
    """Return the latest arrival of events as `from_json` gives them."""
    return max(datetime.fromisoformat(arrival) for arrival in {event[ARRIVAL] for event in events})


def record_batches(records: Iterable[list[Event]], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the events of `from_json` lists in order, in the EVENTS schema, at most `rows` a batch."""
    waiting: list[Event] = []
    for events in records:
        waiting.extend(events)
        while len(waiting) >= rows:
            yield _record_batch(waiting[:rows])
            del waiting[:rows]
    if waiting:
        yield _record_batch(waiting)


def _record_batch(events: list[Event]) -> pa.RecordBatch:
    try:
        columns = pa.array(events, _AS_JSON).flatten()
        typed = [column.cast(field.type) for field, column in zip(EVENTS, columns, strict=True)]
        return pa.RecordBatch.from_arrays(typed, schema=EVENTS)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if len(events) > 1:  # one event that another program wrote must not hold up the others
            halves = events[: len(events) // 2], events[len(events) // 2 :]
            return pa.concat_batches([_record_batch(half) for half in halves])
        _logger.error(
            "The event %s in the log does not fit the contract (%s) and is skipped",
            events[0].get("event_id"),
            " ".join(str(error).split()),
        )
        return pa.RecordBatch.from_pylist([], schema=EVENTS)
