"""Progress of long work, shown wherever somebody watches.

A step reports to a `Progress`. On a terminal it draws a bar; below Airflow, where the terminal belongs to
the scheduler, it appends JSON lines to the file named by `HEADRACE_PROGRESS_FILE`, which `headrace loop` draws.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Protocol, TypeVar

PROGRESS_VARIABLE = "HEADRACE_PROGRESS_FILE"
_MIN_INTERVAL_S = 0.2
T = TypeVar("T")


class Progress(Protocol):
    """Somebody who wants to know how far a step is."""

    def update(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Say that `done` of `total` units of `stage` are finished."""
        ...


class SilentProgress:
    """Nobody watches."""

    def update(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Do nothing."""


class FileProgress:
    """Appends JSON lines to a file that another process follows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: dict[str, float] = {}

    def update(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Append one line, at most five a second and stage; the last unit is always written."""
        now = time.monotonic()
        if done != total and now - self._last.get(stage, -1.0) < _MIN_INTERVAL_S:
            return
        self._last[stage] = now
        line = json.dumps({"stage": stage, "done": done, "total": total, "note": note})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class TerminalProgress:
    """Rewrites one line of a terminal; on anything else writes a line a tenth."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._last_at = 0.0
        self._last_tenth: dict[str, int] = {}

    def update(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Draw how far `stage` is."""
        amount = f"{done:,}/{total:,}" if total else f"{done:,}"
        finished = total is not None and done >= total
        if self._stream.isatty():
            now = time.monotonic()
            if finished or now - self._last_at >= _MIN_INTERVAL_S:
                self._last_at = now
                self._stream.write(f"\r\033[K  {stage} {amount} {note}" + ("\n" if finished else ""))
                self._stream.flush()
            return
        tenth = 10 * done // total if total else 0
        if tenth != self._last_tenth.get(stage):
            self._last_tenth[stage] = tenth
            self._stream.write(f"  {stage} {amount} {note}\n")
            self._stream.flush()


def progress_from_environment(environment: Mapping[str, str] = os.environ) -> Progress:
    """Return a `FileProgress` where `HEADRACE_PROGRESS_FILE` is set, else a `TerminalProgress`."""
    if path := environment.get(PROGRESS_VARIABLE):
        return FileProgress(Path(path))
    return TerminalProgress()


def tracked(items: Iterable[T], progress: Progress, stage: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and report after each one."""
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(stage, done, total)
