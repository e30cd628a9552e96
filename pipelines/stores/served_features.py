"""A sample of the feature values that the service answered from, for the skew audit; one file a day and service."""

import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.inference.preprocessing import UserFeatures
from pipelines.schemas import TIMESTAMP
from pipelines.stores.day_log import DayLog, newest_rows

SERVED_FEATURES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("requested_at", TIMESTAMP, nullable=False),
        pa.field("event_timestamp_us", pa.int64()),
        pa.field("arrived_at_us", pa.int64()),
        pa.field("bundle", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("event_types", pa.list_(pa.string()), nullable=False),
        pa.field("event_times", pa.list_(pa.int64()), nullable=False),
        *(pa.field(name, pa.float64()) for name in ACTIVITY_FEATURES),
    ]
)
"""One request: who asked (a pseudonym) and when, the row that answered (by its newest event and its arrival, null for
a stranger), the bundle, and the values as they were used."""
_MOMENT = "requested_at"


class ServedFeaturesLog:
    """Writes the sample of one service; safe for many threads."""

    def __init__(
        self,
        folder: Path,
        *,
        share: float,
        keep_days: int,
        queue_size: int = 10_000,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Start the writer, unless nothing is to be sampled.

        Args:
            folder: `Places.served_features`.
            share: Share of the requests that is kept, in [0, 1]; 0 switches the log off.
            keep_days: Days (UTC) after which a day's files are removed.
            queue_size: Rows that may wait to be written.
            chance: Draws from [0, 1).
        """
        self._share = share
        self._chance = chance
        self._log = (
            DayLog(folder, what="served features", day_of=_MOMENT, keep_days=keep_days, queue_size=queue_size)
            if share > 0
            else None
        )

    @property
    def dropped(self) -> int:
        """Rows that did not fit into the queue, or that the disk refused."""
        return self._log.dropped if self._log else 0

    def offer(self, user_id: str, features: UserFeatures, *, bundle: str, now: datetime) -> None:
        """Keep what was used for a request, if it falls into the sample; returns at once and never raises."""
        if self._log is None or self._chance() >= self._share:
            return
        self._log.offer(
            {
                "user_id": user_id,
                _MOMENT: now,
                "event_timestamp_us": getattr(features, "event_timestamp_us", None),
                "arrived_at_us": getattr(features, "arrived_at_us", None),
                "bundle": bundle,
                "item_ids": features.item_ids,
                "event_types": features.event_types,
                "event_times": features.event_times,
                **features.activity,
            }
        )

    def close(self, timeout_s: float = 5) -> None:
        """Write what waits, and stop."""
        if self._log is not None:
            self._log.close(timeout_s)


def read_served_features(folder: Path, *, limit: int) -> pa.Table:
    """Return the newest rows, at most `limit`, oldest first, in the SERVED_FEATURES schema."""
    return pa.Table.from_pylist(newest_rows(folder, limit=limit, day_of=_MOMENT), schema=SERVED_FEATURES)
