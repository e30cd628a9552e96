"""When to stop: after so many validations without a gain."""

from collections.abc import Iterable


class EarlyStopping:
    """Remembers the best value and how long ago it was."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = float("-inf")
        self._stale = 0

    @classmethod
    def replayed(cls, patience: int, values: Iterable[float]) -> "EarlyStopping":
        """Return the state after `values` were observed."""
        stopping = cls(patience)
        for value in values:
            stopping.observe(value)
        return stopping

    def observe(self, value: float) -> bool:
        """Take in one validation value; return whether it is the best so far."""
        if value > self._best:
            self._best, self._stale = value, 0
            return True
        self._stale += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether `patience` validations in a row brought no gain."""
        return self._stale >= self._patience
