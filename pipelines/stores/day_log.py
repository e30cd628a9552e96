"""Rows of a running service as files, `<day>/<writer>.jsonl`, written without slowing an answer.

A request turns its row into a line, some 10 µs, and leaves it with a bounded number of others. These are written as one
in the background, where only bytes are joined: to turn hundreds of rows into lines at once would keep the interpreter
from the requests of those milliseconds. What does not fit is dropped and counted. A disk that refuses is logged once a
day and slows nothing.
"""

import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

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
        """Rows that did not fit among those that wait or into the day, or that cannot be written."""
        self._folder = folder
        self._what = what
        self._day_of = day_of
        self._keep_days = keep_days
        self._most_waiting = queue_size
        self._max_rows_a_day = max_rows_a_day
        self._writer = f"{socket.gethostname()}-{os.getpid()}"
        self._day_of_trouble: date | None = None
        self._pruned_on: date | None = None
        self._taken: tuple[date, int] | None = None
        self._waiting: list[tuple[date, bytes]] = []
        self._lock = threading.Lock()
        self._some_wait = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name=what, daemon=True)
        self._thread.start()

    def offer(self, row: Mapping[str, Any]) -> None:
        """Take a row to be written, NumPy arrays among its values; never waits for the disk and never raises."""
        day = row[self._day_of].astimezone(UTC).date()
        with self._lock:
            if not self._fits(day):
                self.dropped += 1
                return
        try:
            line = orjson.dumps(row, option=_AS_LINE)
        except TypeError as error:  # a value that is no JSON
            self._refuse(day, 1, error)
            return
        with self._lock:
            self._waiting.append((day, line))
            is_first = len(self._waiting) == 1
        if is_first:
            self._some_wait.set()

    def close(self, timeout_s: float = 5) -> None:
        """Write what waits, and stop."""
        if self._thread.is_alive():
            self._closing.set()
            self._some_wait.set()
            self._thread.join(timeout_s)

    # Inside

    def _fits(self, day: date) -> bool:
        """Whether another row may wait, and still fits into its day, where it counts from now on."""
        if len(self._waiting) >= self._most_waiting:
            return False
        if self._max_rows_a_day is not None:
            taken = self._taken[1] if self._taken is not None and self._taken[0] == day else 0
            if taken >= self._max_rows_a_day:
                return False
            self._taken = day, taken + 1
        return True

    def _write_on(self) -> None:
        more = True
        while more:
            self._some_wait.wait()
            more = not self._closing.wait(_GATHER_S)
            self._some_wait.clear()  # before the rows are taken: who comes between is taken, or wakes this again
            with self._lock:
                rows, self._waiting = self._waiting, []
            self._write(rows)

    def _write(self, rows: list[tuple[date, bytes]]) -> None:
        by_day: dict[date, list[bytes]] = {}
        for day, line in rows:
            by_day.setdefault(day, []).append(line)
        for day, lines in by_day.items():
            try:
                self._prune(day)
                path = self._folder / day.isoformat() / f"{self._writer}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(b"".join(lines))
            except OSError as error:  # a full disk
                self._refuse(day, len(lines), error)

    def _refuse(self, day: date, count: int, error: Exception) -> None:
        with self._lock:
            self.dropped += count
            is_new, self._day_of_trouble = self._day_of_trouble != day, day
        if is_new:
            _logger.warning("The %s are not kept: %s", self._what, error)

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
