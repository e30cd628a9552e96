"""Events that come in: checked, under pseudonyms, on the disk, then in the users' histories."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bentos.recommender.contract.requests import EventBody, EventsBody, RequestError
from bentos.recommender.current_request import remaining_s
from bentos.recommender.telemetry import metrics
from bentos.recommender.users.user_states import UserStates
from pipelines.errors import DataError, StoreError
from pipelines.features.history import is_remembered
from pipelines.pseudonyms import Pseudonymizer
from pipelines.stores.event_log import EventLogStore
from pipelines.validation.rules import EARLIEST

_TEXTS = ("item_id", "query", "session_id", "event_id")
"""Texts that are kept as they came; validation would set aside what holds a NUL."""
_IDS = ("user_id", "item_id", "session_id", "event_id")
_FUTURE_TOLERANCE = timedelta(minutes=5)
_ITEM_TYPES = frozenset({"impression", "click", "view", "cart", "purchase", "rating"})
_logger = logging.getLogger("headrace.serving")


@dataclass(frozen=True)
class Kept:
    """Events that are on the disk."""

    events: Sequence[Mapping[str, Any]]
    problem: str | None = None
    """Why they do not count at once, if they do not."""


class EventIntake:
    """Takes events in."""

    def __init__(
        self,
        *,
        event_log: EventLogStore,
        users: UserStates,
        pseudonymizer: Pseudonymizer,
        max_events: int,
    ) -> None:
        self._event_log = event_log
        self._users = users
        self._pseudonymizer = pseudonymizer
        self._max_events = max_events

    def keep(self, body: EventsBody, now: datetime) -> Kept:
        """Keep events: on disk first, then in the users' histories.

        Raises:
            RequestError: 422 where an event is wrong, 503 where it cannot be kept.
        """
        began = time.monotonic()
        limit = self._max_events
        if len(body.events) > limit:
            raise RequestError(
                422, f"`events` has {len(body.events):,} events, at most {limit:,} are allowed: send them in parts."
            )
        rows = [self._row(event, index, now) for index, event in enumerate(body.events)]
        try:
            stored = self._event_log.append(rows)
        except DataError as error:
            raise RequestError(422, str(error)) from error
        except StoreError as error:
            _logger.error("%s", error)
            raise RequestError(503, str(error)) from error
        metrics.ACCEPTED_EVENTS.inc(len(stored))
        remembered = [event for event in stored if is_remembered(event)]
        return Kept(stored, self._users.push(remembered, began, remaining_s()) if remembered else None)

    def _row(self, event: EventBody, index: int, now: datetime) -> dict[str, Any]:
        where = f"events.{index}"
        if event.event_type in _ITEM_TYPES and event.item_id is None:
            raise RequestError(422, f"`{where}.item_id` is missing: a {event.event_type} needs the item it is about.")
        if event.event_type == "search" and event.query is None:
            raise RequestError(422, f"`{where}.query` is missing: a search needs the words searched for.")
        for name in _TEXTS:
            if "\0" in (getattr(event, name) or ""):
                raise RequestError(422, f"`{where}.{name}` holds a NUL character: leave it out.")
        for name in _IDS:
            if (value := getattr(event, name)) is not None and not value.strip():
                raise RequestError(422, f"`{where}.{name}` is blank: send an id.")
        happened = event.event_timestamp or now
        if happened < EARLIEST:  # also what is too early to be written in UTC at all
            raise RequestError(
                422,
                f"`{where}.event_timestamp` is {happened.isoformat()}, before {EARLIEST.date()}, which no event is: "
                "send the time at which it happened.",
            )
        if happened > now + _FUTURE_TOLERANCE:
            raise RequestError(
                422,
                f"`{where}.event_timestamp` is {happened.isoformat()}, it is {now.isoformat()} now: send a time that "
                "is over.",
            )
        return {
            **event.model_dump(),
            "user_id": self._pseudonymizer.pseudonym(event.user_id),
            "event_id": event.event_id or uuid.uuid4().hex,
            "event_timestamp": happened.astimezone(UTC),
        }
