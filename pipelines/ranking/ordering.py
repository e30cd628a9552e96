"""Ordering: the best items first."""

import numpy as np

_GROUPED = 8_192
"""Scores from which on the search for the best looks at groups first."""
_GROUP = 64


def top_rows(scores: np.ndarray, k: int, allowed: np.ndarray | None = None, *, above: float = -np.inf) -> np.ndarray:
    """Return the row numbers of the `k` best scores, best first, ties in row order.

    Args:
        scores: float32 `(n_items,)`.
        k: Number wanted; fewer come back if fewer are allowed.
        allowed: bool `(n_items,)`; None allows all.
        above: What a score has to be more than.

    Returns:
        int64 `(<=k,)`.
    """
    candidates = _candidates(scores, k, allowed, above)
    values = scores[candidates]
    if k >= len(candidates):
        return candidates[np.argsort(-values, kind="stable")]
    threshold = np.partition(values, -k)[-k] if k else np.inf
    better = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)[: k - len(better)]  # of thousands of equals none is sorted
    return candidates[np.append(better[np.argsort(-values[better], kind="stable")], equal)]


def distinct_rows(*parts: np.ndarray) -> np.ndarray:
    """Return the distinct numbers of all parts, int64 `(m,)`, rising."""
    rows = np.sort(np.concatenate(parts))
    return rows[np.append(True, rows[1:] != rows[:-1])] if len(rows) else rows


def first_allowed(rows: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
    """Return the first `k` of `rows`, int64 `(<=k,)`, that are allowed, bool `(n_items,)`."""
    first = rows[: 4 * k]
    found = first[allowed[first]]
    return (found if len(found) >= k else rows[allowed[rows]])[:k]


def _candidates(scores: np.ndarray, k: int, allowed: np.ndarray | None, above: float) -> np.ndarray:
    """Return the allowed rows with such scores, int64, rising; of many, those that can be among the best `k`.

    The k-th best of the bests of disjoint groups is a lower bound of the k-th best score.
    """
    n_groups = len(scores) // _GROUP
    if len(scores) >= _GROUPED and 0 < k <= n_groups:
        open_scores = scores if allowed is None else np.where(allowed, scores, -np.inf)
        bests = open_scores[: n_groups * _GROUP].reshape(_GROUP, n_groups).max(axis=0)
        bound = np.partition(bests, -k)[-k]
        if bound > above:
            return np.flatnonzero(open_scores >= bound)
    if above == -np.inf:
        return np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    return np.flatnonzero(scores > above if allowed is None else (scores > above) & allowed)
