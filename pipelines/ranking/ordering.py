"""Ordering: the best items first."""

import numpy as np


def top_rows(scores: np.ndarray, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """Return the row numbers of the `k` best scores, best first, ties in row order.

    Args:
        scores: float32 `(n_items,)`.
        k: Number wanted; fewer come back if fewer are allowed.
        allowed: bool `(n_items,)`; None allows all.

    Returns:
        int64 `(<=k,)`.
    """
    candidates = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    if k < len(candidates):
        values = scores[candidates]
        threshold = np.partition(values, -k)[-k] if k else np.inf
        candidates = candidates[values >= threshold]
    order = np.argsort(-scores[candidates], kind="stable")[:k]
    rows: np.ndarray = candidates[order]
    return rows
