"""Progress that says how long it is going to take."""

import time
from collections.abc import Callable

from pipelines.progress import Progress

_SURE_AFTER_S = 3.0


class TimeLeft:
    """Passes progress on with the time that a stage still needs, and how far the whole bench is.

    Args:
        progress: Who shows it.
        clock: Seconds that only grow.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._part = ""

    def begin(self, part: str) -> None:
        """Start another part of the bench; its name stands before every stage."""
        self._part = f"{part}: " if part else ""
        self._began.clear()

    def update(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        """Pass on `done` of `total` with the time left, once a few seconds tell how fast it goes."""
        now = self._clock()
        since, first = self._began.setdefault(stage, (now, done))
        if done < first:  # the stage began again
            since, first = self._began[stage] = (now, done)
        spent = now - since
        if total is not None and spent >= _SURE_AFTER_S and first < done < total:
            left = f"about {in_words(spent / (done - first) * (total - done))} left"
            note = f"{note}, {left}" if note else left
        self._progress.update(self._part + stage, done, total, note)


def in_words(seconds: float) -> str:
    """Return a duration for people: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
