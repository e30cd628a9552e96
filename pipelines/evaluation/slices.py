"""Parts of the rows or of the targets that are looked at on their own."""

import numpy as np

COLD_EVENTS = 5
"""An item with so many known events or fewer is cold."""
HEAD_SHARE = 0.8
"""Share of the known events that the head of the catalogue makes; the other items are the tail."""
SHORT_HISTORY = 5
"""Events of a short history at most."""
LONG_HISTORY = 20
"""Events that a long history exceeds."""


def cold_items(counts: np.ndarray) -> np.ndarray:
    """Return which items are cold, bool `(n_items,)`.

    Args:
        counts: float `(n_items,)`, known events of each item.
    """
    cold: np.ndarray = counts <= COLD_EVENTS
    return cold


def tail_items(counts: np.ndarray) -> np.ndarray:
    """Return which items are not in the head, bool `(n_items,)`.

    The head is the fewest items, the most popular first, that together have 80 % of the known events; among equally
    popular ones those that come first in the catalogue.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order], dtype=np.float64) - counts[order]
    tail = np.empty(len(counts), bool)
    tail[order] = before >= HEAD_SHARE * counts.sum(dtype=np.float64)
    return tail


def target_slices(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the slices of items, bool `(n_items,)` each: only targets of the slice count."""
    return {"cold items": cold_items(counts), "tail items": tail_items(counts)}


def history_slices(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Return the slices of rows by the events of the history, bool `(n,)` each.

    Args:
        lengths: int64 `(n,)`.
    """
    return {"short histories": lengths <= SHORT_HISTORY, "long histories": lengths > LONG_HISTORY}
