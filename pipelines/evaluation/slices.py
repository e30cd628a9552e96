"""Parts of the rows or of the targets that are looked at on their own."""

from collections.abc import Sequence

import numpy as np

from pipelines.evaluation.scripts import script_of

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


def category_slices(categories: Sequence[str | None], targets: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Return the categories with the most targets as slices of items, bool `(n_items,)` each, by `category <name>`.

    Args:
        categories: Of each item, None where it has none.
        targets: int64 `(n,)`, items that were wanted, −1 for one outside the catalogue.
        most: Categories at most; among equally many targets the first by name.
    """
    names = np.asarray([name or "" for name in categories], dtype=np.str_)
    found, counts = np.unique(names[targets[targets >= 0]], return_counts=True)
    kept = [name for name in found[np.argsort(-counts, kind="stable")].tolist() if name][:most]
    return {f"category {name}": names == name for name in kept}


def script_slices(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the scripts of texts as slices, bool `(n_texts,)` each, by `<script> script`; none where all share one."""
    scripts = np.asarray([script_of(text) for text in texts], dtype=np.str_)
    names = np.unique(scripts).tolist()
    return {f"{name} script": scripts == name for name in names} if len(names) > 1 else {}
