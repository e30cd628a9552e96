"""Rows of a running service as files, `<day>/<writer>.jsonl`, written without slowing an answer.

Writing happens in the background: a request only puts a row into a bounded queue, and what does not fit is dropped and
counted. A disk that refuses is logged once a day and slows nothing.
"""

import logging
import os
import queue
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

_ROWS_AT_ONCE = 1_000
_GATHER_S = 0.25
"""Rows that come within so long are written together: to open a file for each would cost more than the answer."""
_AS_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
_logger = logging.getLogger("headrace.serving")


class DayLog:
    """Writes the rows of one service; safe for many threads."""

    def __init__(
        self,
        folder: Path,
        *,
        what: str,
        day_of: str,
        keep_days: int,
        queue_size: int = 10_000,
        max_rows_a_day: int | None = None,
    ) -> None:
        """Start the writer.

        Args:
            folder: Where the days are.
            what: What the rows are, for the log, such as `served features`.
            day_of: The column, a datetime, that says to which day (UTC) a row belongs.
            keep_days: Days (UTC) after which a day's files are removed.
            queue_size: Rows that may wait to be written.
            max_rows_a_day: Rows of one day that are written at most; the others count as dropped.
        """
        self.dropped = 0
        """Rows that did not fit into the queue or into the day, or that the disk refused."""
        self._folder = folder
        self._what = what
        self._day_of = day_of
        self._keep_days = keep_days
        self._max_rows_a_day = max_rows_a_day
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(queue_size)
        self._writer = f"{socket.gethostname()}-{os.getpid()}"
        self._day_of_trouble: date | None = None
        self._pruned_on: date | None = None
        self._written: dict[date, int] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name=what, daemon=True)
        self._thread.start()

    def offer(self, row: Mapping[str, Any]) -> None:
        """Take a row to be written, NumPy arrays among its values; returns at once and never raises."""
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_s: float = 5) -> None:
        """Write what waits, and stop."""
        if self._thread.is_alive():
            self._closing.set()
            self._queue.put(None)
            self._thread.join(timeout_s)

    # Inside

    def _write_on(self) -> None:
        more = True
        while more:
            rows = [self._queue.get()]
            self._closing.wait(_GATHER_S)
            while len(rows) < _ROWS_AT_ONCE and rows[-1] is not None:
                try:
                    rows.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            more = rows[-1] is not None
            self._write([row for row in rows if row is not None])

    def _write(self, rows: list[Mapping[str, Any]]) -> None:
        by_day: dict[date, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_day.setdefault(row[self._day_of].astimezone(UTC).date(), []).append(row)
        for day, of_day in by_day.items():
            fitting = self._fitting(day, of_day)
            try:
                self._prune(day)
                path = self._folder / day.isoformat() / f"{self._writer}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                lines = b"".join(orjson.dumps(row, option=_AS_LINE) for row in fitting)
                with path.open("ab") as file:
                    file.write(lines)
            except (OSError, TypeError) as error:  # a full disk, or a value that is no JSON
                self.dropped += len(fitting)
                if self._day_of_trouble != day:
                    self._day_of_trouble = day
                    _logger.warning("The %s are not kept: %s", self._what, error)

    def _fitting(self, day: date, rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the rows that still fit into their day."""
        if self._max_rows_a_day is None:
            return rows
        before = self._written.get(day, 0)
        fitting = rows[: max(0, self._max_rows_a_day - before)]
        self._written = {day: before + len(fitting)}
        self.dropped += len(rows) - len(fitting)
        return fitting

    def _prune(self, today: date) -> None:
        """Remove the days that are over for too long, once a day."""
        if self._pruned_on != today:
            self._pruned_on = today
            for day, folder in logged_days(self._folder):
                if day < today - timedelta(days=self._keep_days):
                    shutil.rmtree(folder, ignore_errors=True)


def logged_days(folder: Path) -> Iterator[tuple[date, Path]]:
    """Yield the days that have rows, oldest first."""
    for path in sorted(folder.glob("????-??-??")):
        try:
            yield date.fromisoformat(path.name), path
        except ValueError:
            continue


def newest_rows(folder: Path, *, limit: int, day_of: str) -> list[dict[str, Any]]:
    """Return the newest rows, at most `limit`, oldest first; `day_of` is a datetime again.

    A line that a crash cut in two is passed over.
    """
    rows: list[dict[str, Any]] = []
    for _, path in reversed(list(logged_days(folder))):
        for file in sorted(path.glob("*.jsonl")):
            rows += _rows_of(file.read_bytes().splitlines(), day_of)
        if len(rows) >= limit:
            break
    rows.sort(key=lambda row: row[day_of])
    return rows[-limit:]


def _rows_of(lines: Iterable[bytes], day_of: str) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        yield {**row, day_of: datetime.fromisoformat(row[day_of])}
