"""What was shown to whom, at which position and with which chance: what later learning needs to judge another order.

A row names its user by the pseudonym, a column of its own, and holds no query, no text of the request and no raw id.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.stores.day_log import DayLog, newest_rows

MAX_ROWS_A_DAY = 1_000_000
"""Rows that one service writes in a day at most, about half a GiB."""
_MOMENT = "requested_at"


class ShownListsLog:
    """Writes the lists of one service; safe for many threads."""

    def __init__(
        self, folder: Path, *, share: float, keep_days: int, chance: Callable[[], float] = random.random
    ) -> None:
        """Start the writer, unless nothing is to be kept.

        Args:
            folder: `Places.shown_lists`.
            share: Share of the answers that is kept, in [0, 1]; 0 switches the log off.
            keep_days: Days (UTC) after which a day's files are removed.
            chance: Draws from [0, 1).
        """
        self._share = share
        self._chance = chance
        self._log = (
            DayLog(folder, what="shown lists", day_of=_MOMENT, keep_days=keep_days, max_rows_a_day=MAX_ROWS_A_DAY)
            if share > 0
            else None
        )

    @property
    def dropped(self) -> int:
        """Lists that should have been kept and were not."""
        return self._log.dropped if self._log is not None else 0

    def offer(
        self,
        *,
        now: datetime,
        request_id: str,
        user_id: str | None,
        call: str,
        bundle: str,
        first_position: int,
        item_ids: Sequence[str],
        scores: np.ndarray,
        propensities: Sequence[float] | None,
        parts: Mapping[str, np.ndarray],
        rules: Sequence[str],
        seed: str | None,
        degraded: bool,
    ) -> None:
        """Keep a list, if it falls into the share; returns at once and never raises.

        Args:
            user_id: The pseudonym; None where the request named nobody.
            first_position: Position of the first item, from 1; the others follow.
            scores: float32, of each item.
            propensities: Chance of each item to be at its position; None where nothing was left to chance.
            parts: What each generator said of each item, float32 in [0, 1].
            rules: Ids of the business rules that touched the list.
            seed: What exploration drew from.
        """
        if self._log is None or (self._share < 1 and self._chance() >= self._share):
            return
        self._log.offer(
            {
                _MOMENT: now,
                "request_id": request_id,
                "user_id": user_id,
                "call": call,
                "bundle": bundle,
                "first_position": first_position,
                "item_ids": item_ids,
                "scores": scores,
                "propensities": [1] * len(item_ids) if propensities is None else propensities,
                "parts": parts,
                "rules": rules,
                "seed": seed,
                "degraded": degraded,
            }
        )

    def close(self, timeout_s: float = 5) -> None:
        """Write what waits, and stop."""
        if self._log is not None:
            self._log.close(timeout_s)


def read_shown_lists(folder: Path, *, limit: int) -> list[dict[str, Any]]:
    """Return the newest lists, at most `limit`, oldest first."""
    return newest_rows(folder, limit=limit, day_of=_MOMENT)
