"""A sample of the feature values that the service answered from, for the skew audit: `<day>/<writer>.jsonl`.

Writing happens in the background: a request only puts a row into a bounded queue, and what does not fit is dropped and
counted. A disk that refuses is logged once a day and slows nothing.
"""

import logging
import os
import queue
import random
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.inference.preprocessing import UserFeatures
from pipelines.schemas import TIMESTAMP

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
_ROWS_AT_ONCE = 1_000
_logger = logging.getLogger("headrace.serving")


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
        self.dropped = 0
        """Rows that did not fit into the queue, or that the disk refused."""
        self._folder = folder
        self._share = share
        self._keep_days = keep_days
        self._chance = chance
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(queue_size)
        self._writer = f"{socket.gethostname()}-{os.getpid()}"
        self._day_of_trouble: date | None = None
        self._pruned_on: date | None = None
        self._thread = threading.Thread(target=self._write_on, name="served-features", daemon=True)
        if share > 0:
            self._thread.start()

    def offer(self, user_id: str, features: UserFeatures, *, bundle: str, now: datetime) -> None:
        """Keep what was used for a request, if it falls into the sample; returns at once and never raises."""
        if self._share <= 0 or self._chance() >= self._share:
            return
        row = {
            "user_id": user_id,
            "requested_at": now,
            "event_timestamp_us": getattr(features, "event_timestamp_us", None),
            "arrived_at_us": getattr(features, "arrived_at_us", None),
            "bundle": bundle,
            "item_ids": features.item_ids,
            "event_types": features.event_types,
            "event_times": features.event_times,
            **features.activity,
        }
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_s: float = 5) -> None:
        """Write what waits, and stop."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_s)

    # Inside

    def _write_on(self) -> None:
        more = True
        while more:
            rows = [self._queue.get()]
            while len(rows) < _ROWS_AT_ONCE and rows[-1] is not None:
                try:
                    rows.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            more = rows[-1] is not None
            self._write([row for row in rows if row is not None])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        by_day: dict[date, list[dict[str, Any]]] = {}
        for row in rows:
            by_day.setdefault(row["requested_at"].astimezone(UTC).date(), []).append(row)
        for day, of_day in by_day.items():
            try:
                self._prune(day)
                path = self._folder / day.isoformat() / f"{self._writer}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in of_day)
                with path.open("ab") as file:
                    file.write(lines)
            except (OSError, TypeError) as error:  # a full disk, or a value that is no JSON
                self.dropped += len(of_day)
                if self._day_of_trouble != day:
                    self._day_of_trouble = day
                    _logger.warning("Served features are not kept for the skew audit: %s", error)

    def _prune(self, today: date) -> None:
        """Remove the days that are over for too long, once a day."""
        if self._pruned_on != today:
            self._pruned_on = today
            for day, folder in served_days(self._folder):
                if day < today - timedelta(days=self._keep_days):
                    shutil.rmtree(folder, ignore_errors=True)


def served_days(folder: Path) -> Iterator[tuple[date, Path]]:
    """Yield the days that have served features, oldest first."""
    for path in sorted(folder.glob("????-??-??")):
        try:
            yield date.fromisoformat(path.name), path
        except ValueError:
            continue


def read_served_features(folder: Path, *, limit: int) -> pa.Table:
    """Return the newest rows, at most `limit`, oldest first, in the SERVED_FEATURES schema.

    A line that a crash cut in two is passed over.
    """
    rows: list[dict[str, Any]] = []
    for _, path in reversed(list(served_days(folder))):
        for file in sorted(path.glob("*.jsonl")):
            rows += _rows_of(file.read_bytes().splitlines())
        if len(rows) >= limit:
            break
    rows.sort(key=lambda row: row["requested_at"])
    return pa.Table.from_pylist(rows[-limit:], schema=SERVED_FEATURES)


def _rows_of(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        yield {**row, "requested_at": datetime.fromisoformat(row["requested_at"])}
