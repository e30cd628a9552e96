"""What a push makes of the state of users: the fold of `build_features`, after what ingestion would leave out."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from pipelines.config import PreparationConfig
from pipelines.features.history import is_remembered
from pipelines.features.user_fold import UserRow, user_rows
from pipelines.features.user_state import USER_ROWS
from pipelines.schemas import MAX_HISTORY

Pushed = Callable[[str], bool | None]
_MOST_OVERTAKEN = timedelta(minutes=1)
"""Calls overtake each other by less: an event that arrived so long before the newest one was added in its time."""


def _nobody_knows(_event_id: str) -> None:
    return None


class UserFold:
    """Adds events to the states of users; safe for many threads."""

    def __init__(self, *, history_length: int = MAX_HISTORY, preparation: PreparationConfig | None = None) -> None:
        """Take the settings of the pipeline.

        Args:
            history_length: As `build_features` has it.
            preparation: As `ingest_tables` has it: repeats of an event are passed over here as they are there.
        """
        self._history_length = history_length
        self._preparation = preparation or PreparationConfig()

    def add(
        self, states: Mapping[str, UserRow], events: Iterable[Mapping[str, Any]], *, pushed: Pushed = _nobody_knows
    ) -> list[UserRow]:
        """Return the newest row of each user whom the events change.

        An event that the state has already changes nothing. One that arrived before the newest of the state but is
        not in it (two calls overtook each other) is added all the same.

        Args:
            states: User id -> the user's newest row; a stranger has none.
            events: Events of the contract, of any users.
            pushed: Whether an event of this id was added before; None: nobody knows.
        """
        by_user: dict[str, list[Mapping[str, Any]]] = {}
        for event in events:
            if is_remembered(event):
                by_user.setdefault(event["user_id"], []).append(event)
        changed = (self._newest(states.get(user_id), of_user, pushed) for user_id, of_user in by_user.items())
        return [row for row in changed if row is not None]

    # Inside

    def _newest(self, state: UserRow | None, events: Iterable[Mapping[str, Any]], pushed: Pushed) -> UserRow | None:
        """Return the newest row of a user; None where the events change nothing."""
        unseen = self._unseen(state, events, pushed)
        if not unseen:
            return None
        before = state and _before(state, min(event["created_timestamp"] for event in unseen))
        return _not_older(user_rows(before, unseen, self._history_length)[-1], state)

    def _unseen(
        self, state: UserRow | None, events: Iterable[Mapping[str, Any]], pushed: Pushed
    ) -> list[Mapping[str, Any]]:
        """Leave out what the state has, what was sent twice, and repeats that ingestion merges."""
        known = set(zip(state["item_ids"], state["event_types"], state["event_times"], strict=True)) if state else set()
        is_full = state is not None and len(state["event_times"]) >= self._history_length
        oldest_s = state["event_times"][0] if state is not None and is_full else None
        last_told: dict[tuple[str, str], list[float]] = {}
        for item_id, kind, time_s in known:
            last_told.setdefault((item_id, kind), []).append(time_s)
        ids: set[str] = set()
        unseen = []
        for event in sorted(events, key=lambda event: (event["event_timestamp"], event["event_id"])):
            if event["event_id"] in ids:
                continue
            happened_s = event["event_timestamp"].timestamp()
            what = (event["item_id"], event["event_type"])
            gap = self._preparation.repeat_gap_s if what[1] in self._preparation.repeat_types else 0
            is_in = (*what, int(happened_s)) in known
            has_left = oldest_s is not None and int(happened_s) <= oldest_s and not is_in
            if (is_in and gap) or ((is_in or has_left) and state is not None and _was_added(event, state, pushed)):
                continue
            ids.add(event["event_id"])
            told = last_told.setdefault(what, [])
            repeated = bool(gap) and any(abs(happened_s - before_s) <= gap for before_s in told)
            told.append(happened_s)  # a repeat of a repeat is one as well
            if not repeated:
                unseen.append(event)
        return unseen


def blank_row(user_id: str) -> UserRow:
    """Return the row of a user of whom nothing is known."""
    beginning = datetime(1970, 1, 1, tzinfo=UTC)
    row: UserRow = {}
    for column in USER_ROWS:
        if pa.types.is_list(column.type):
            row[column.name] = []
        elif pa.types.is_timestamp(column.type):
            row[column.name] = beginning
        else:
            row[column.name] = None if column.nullable else 0
    return {**row, "user_id": user_id, "moment_id": f"{user_id}:0"}


def _was_added(event: Mapping[str, Any], state: UserRow, pushed: Pushed) -> bool:
    """Whether an event that looks like one of the state, or that its history has no place for, is in the state."""
    known = pushed(event["event_id"])
    if known is None:
        return bool(event["created_timestamp"] <= state["created_timestamp"])
    return known or bool(event["created_timestamp"] <= state["created_timestamp"] - _MOST_OVERTAKEN)


def _before(state: UserRow, arrival: Any) -> UserRow:
    """Return the state as if it had been known just before the arrival: the fold passes over what is older."""
    if arrival > state["created_timestamp"]:
        return state
    earlier = arrival - timedelta(microseconds=1)
    microseconds = state["arrived_at_us"] - (state["created_timestamp"] - earlier) // timedelta(microseconds=1)
    return {**state, "created_timestamp": earlier, "arrived_at_us": microseconds}


def _not_older(row: UserRow, state: UserRow | None) -> UserRow:
    """Return the row with the arrival of the state where that is newer."""
    if state is None or state["arrived_at_us"] <= row["arrived_at_us"]:
        return row
    return {**row, "created_timestamp": state["created_timestamp"], "arrived_at_us": state["arrived_at_us"]}
