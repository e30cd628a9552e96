"""Hard negatives of a batch of (query, item) pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rivals:
    """What a batch of `n` pairs is compared with beside its own items."""

    rows: np.ndarray
    """int64 `(m,)`, row numbers of further items, negatives of every query."""
    answers: np.ndarray
    """bool `(n, n + m)`: true where an item, the pairs' own first, is known to answer a query: no negative of it."""

    @classmethod
    def none(cls, n: int) -> "Rivals":
        """Return no rivals for `n` pairs, of whose items nothing more is known."""
        return cls(np.empty(0, np.int64), np.zeros((n, n), bool))


RivalSource = Callable[[Sequence[str], np.ndarray, np.random.Generator], Rivals]
"""Draws rivals for the queries and the item rows of a batch."""
