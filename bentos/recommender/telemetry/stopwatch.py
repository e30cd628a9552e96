"""How long each stage of a request took."""

import time


class Stopwatch:
    """Milliseconds per stage of one request."""

    def __init__(self) -> None:
        self._last = self._start = time.perf_counter()
        self.stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Book the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.stages[stage] = round((now - self._last) * 1e3, 3)
        self._last = now

    def total(self) -> dict[str, float]:
        """Return all stages and their sum."""
        return {**self.stages, "total": round((time.perf_counter() - self._start) * 1e3, 3)}
