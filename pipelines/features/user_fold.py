"""The fold of `user_rows_sql` for one user in plain Python: planning the SQL takes longer than a push may.

A test holds that both give the same rows over random streams of events. The SQL is the definition.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

from pipelines.features.folds import HALF_LIVES_DAYS
from pipelines.features.history import HISTORY_EVENT_TYPES, is_remembered
from pipelines.features.user_state import COUNTED_TYPES, MAX_SPAN_DAYS, NOTHING
from pipelines.schemas import MAX_HISTORY

UserRow = dict[str, Any]
"""One row of USER_ROWS."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000.0
_VALUE_HALF_LIFE_DAYS = 28
_DECAYED = {
    **{f"events_{days}d_decayed": days for days in HALF_LIVES_DAYS},
    "spend_28d_decayed": _VALUE_HALF_LIFE_DAYS,
    "valued_28d_decayed": _VALUE_HALF_LIFE_DAYS,
}
_PLACE_OF_TYPE = {kind: place for place, kind in enumerate(HISTORY_EVENT_TYPES)}
_COUNT_OF_TYPE = {kind: name for name, kind in COUNTED_TYPES.items()}


def user_rows(
    state: UserRow | None, events: Iterable[Mapping[str, Any]], history_length: int = MAX_HISTORY
) -> list[UserRow]:
    """Return the rows of a user after each arrival of events, oldest first: see `user_rows_sql`.

    Args:
        state: The newest row, as USER_ROWS has it; None for a stranger.
        events: Events of the contract, all of one user.
    """
    known_until = -1 if state is None else state["arrived_at_us"]
    fresh = sorted(
        (one for one in map(_Fresh.of, filter(is_remembered, events)) if one.arrived_us > known_until),
        key=_Fresh.place,
    )
    if not fresh:
        return []
    running = _Running(state, fresh[-1].arrived_us)
    entries = list(zip(state["event_times"], state["item_ids"], state["event_types"], strict=True)) if state else []
    rows = []
    for arrived_us, arrival in groupby(fresh, key=_Fresh.arrival):
        of_arrival = list(arrival)
        running.add(of_arrival)
        entries += [(one.happened_us // 1_000_000, one.item_id, one.event_type) for one in of_arrival]
        # By the second; within one, what arrived earlier comes first: the sort is stable. What falls out here would
        # never come back: later arrivals only push it further out.
        entries.sort(key=_second)
        del entries[:-history_length]
        rows.append(running.row(of_arrival[0].user_id, arrived_us, entries))
    return rows


class _Fresh(NamedTuple):
    """An event that the state does not know."""

    arrived_us: int
    happened_us: int
    event_id: str
    item_id: str
    event_type: str
    value: float | None
    user_id: str

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> "_Fresh":
        """Return what the fold needs of an event."""
        return cls(
            _microseconds(event["created_timestamp"]),
            _microseconds(event["event_timestamp"]),
            event["event_id"],
            event["item_id"],
            event["event_type"],
            event.get("value"),
            event["user_id"],
        )

    def place(self) -> tuple[int, int, str, str, int]:
        """Return what orders the events of a user."""
        return self.arrived_us, self.happened_us, self.event_id, self.item_id, _PLACE_OF_TYPE[self.event_type]

    def arrival(self) -> int:
        """Return when it arrived."""
        return self.arrived_us


class _Running:
    """Counts and sums over the arrivals so far; sums are kept as of the last arrival, told as of the newest event."""

    def __init__(self, state: UserRow | None, last_us: int) -> None:
        self._last_us = last_us
        self.n_events = self.n_moments = 0
        self.newest_us: int | None = None
        self.first_us: int | None = None
        self.counts = dict.fromkeys(COUNTED_TYPES, 0)
        self.sums = dict.fromkeys(_DECAYED, 0.0)
        if state is not None:
            self.n_events, self.n_moments = state["n_events"], state["n_moments"]
            self.newest_us, self.first_us = _microseconds(state["event_timestamp"]), state["first_at_us"]
            self.counts = {name: state[name] for name in COUNTED_TYPES}
            self.sums = {name: state[name] * _power(days, self.newest_us - last_us) for name, days in _DECAYED.items()}

    def add(self, arrival: list[_Fresh]) -> None:
        """Add the events of one arrival."""
        arrived_us = arrival[0].arrived_us
        terms = dict.fromkeys(_DECAYED, 0.0)
        for one in arrival:
            happened_us = one.happened_us
            for days in HALF_LIVES_DAYS:
                terms[f"events_{days}d_decayed"] += _power(days, happened_us - arrived_us)
            if one.event_type == "purchase" and one.value is not None:
                weight = _power(_VALUE_HALF_LIFE_DAYS, happened_us - arrived_us)
                terms["spend_28d_decayed"] += one.value * weight
                terms["valued_28d_decayed"] += weight
            self.counts[_COUNT_OF_TYPE[one.event_type]] += 1
            self.newest_us = happened_us if self.newest_us is None else max(self.newest_us, happened_us)
            self.first_us = happened_us if self.first_us is None else min(self.first_us, happened_us)
        for name, days in _DECAYED.items():
            self.sums[name] += terms[name] * _power(days, arrived_us - self._last_us)
        self.n_events += len(arrival)
        self.n_moments += 1

    def row(self, user_id: str, arrived_us: int, entries: list[tuple[int, str, str]]) -> UserRow:
        """Return what is known after the arrivals so far."""
        assert self.newest_us is not None and self.first_us is not None  # noqa: S101 - something was added
        decayed = {
            name: self.sums[name] * _power(days, self._last_us - self.newest_us) for name, days in _DECAYED.items()
        }
        spend, valued = decayed["spend_28d_decayed"], decayed["valued_28d_decayed"]
        span_days = (self.newest_us - self.first_us) / DAY_US
        return {
            "user_id": user_id,
            "event_timestamp": EPOCH + timedelta(microseconds=self.newest_us),
            "created_timestamp": EPOCH + timedelta(microseconds=arrived_us),
            "moment_id": f"{user_id}:{self.n_events}",
            "n_events": self.n_events,
            "n_moments": self.n_moments,
            "first_at_us": self.first_us,
            "arrived_at_us": arrived_us,
            "item_ids": [item for _, item, _ in entries],
            "event_types": [kind for _, _, kind in entries],
            "event_times": [second for second, _, _ in entries],
            **self.counts,
            **decayed,
            "mean_value_28d_decayed": spend / valued if valued > NOTHING else None,
            "mean_gap_days": span_days / (self.n_moments - 1) if self.n_moments > 1 else None,
            "days_since_first": span_days,
        }


def _second(entry: tuple[int, str, str]) -> int:
    return entry[0]


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def _power(half_life_days: int, age_us: int) -> float:
    """Return 2 ** (age_us / half-life): the weight of an event whose age is negative."""
    exponent = age_us / (half_life_days * DAY_US)
    return float(2.0 ** max(-MAX_SPAN_DAYS, min(MAX_SPAN_DAYS, exponent)))
