"""A sample of the requests that the service answered, to ask a new bundle before it goes live.

A row holds what was asked and what was known of the user at that moment, and says nothing about who that was: neither
the raw id nor its pseudonym. Days are few and rows a day are bounded.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipelines.inference.preprocessing import UserFeatures
from pipelines.schemas import Record
from pipelines.stores.day_log import DayLog, newest_rows

Call = Literal["search", "recommend", "similar"]
MAX_ROWS_A_DAY = 5_000
"""Rows that one service writes in a day at most."""
_MOMENT = "requested_at"


class KnownUser(Record):
    """What was known of a user when they asked; `UserFeatures` as JSON."""

    item_ids: list[str]
    event_types: list[str]
    event_times: list[int]
    activity: dict[str, float | None]


class ServedRequest(Record):
    """One request as it was answered."""

    requested_at: datetime
    call: Call
    body: dict[str, Any]
    """The body of the call without `user_id`."""
    user: KnownUser | None
    """None where the request named nobody."""
    answered: int
    """Items in the answer."""


class ServedRequestsLog:
    """Writes the sample of one service; safe for many threads."""

    def __init__(
        self, folder: Path, *, share: float, keep_days: int, chance: Callable[[], float] = random.random
    ) -> None:
        """Start the writer, unless nothing is to be sampled.

        Args:
            folder: `Places.served_requests`.
            share: Share of the requests that is kept, in [0, 1]; 0 switches the log off.
            keep_days: Days (UTC) after which a day's files are removed.
            chance: Draws from [0, 1).
        """
        self._share = share
        self._chance = chance
        self._log = (
            DayLog(
                folder,
                what="served requests",
                day_of=_MOMENT,
                keep_days=keep_days,
                queue_size=1_000,
                max_rows_a_day=MAX_ROWS_A_DAY,
            )
            if share > 0
            else None
        )

    def falls_into_sample(self) -> bool:
        """Draw whether the next request is to be offered."""
        return self._log is not None and self._chance() < self._share

    def offer(
        self, call: Call, body: Mapping[str, Any], user: UserFeatures | None, *, answered: int, now: datetime
    ) -> None:
        """Keep a request that falls into the sample; returns at once and never raises."""
        if self._log is None:
            return
        known = user and {
            "item_ids": user.item_ids,
            "event_types": user.event_types,
            "event_times": user.event_times,
            "activity": dict(user.activity),
        }
        asked = {name: value for name, value in body.items() if name != "user_id"}
        self._log.offer({_MOMENT: now, "call": call, "body": asked, "user": known, "answered": answered})

    def close(self, timeout_s: float = 5) -> None:
        """Write what waits, and stop."""
        if self._log is not None:
            self._log.close(timeout_s)


def read_served_requests(folder: Path, *, limit: int) -> Sequence[ServedRequest]:
    """Return the newest requests, at most `limit`, oldest first; rows of another version are passed over."""
    found = []
    for row in newest_rows(folder, limit=limit, day_of=_MOMENT):
        try:
            found.append(ServedRequest.model_validate(row))
        except ValidationError:
            continue
    return found
