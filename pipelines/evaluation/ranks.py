"""The place of each target in the full ranking, without sorting it."""

import numpy as np

TIE_RULE = "equal scores: the item that comes first in the catalogue wins"
NEVER = 2**62
"""The rank of an item that is not in the catalogue: behind any cut, and 0 as a reciprocal rank."""


def target_ranks(
    scores: np.ndarray, targets: np.ndarray, seen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rank targets among all items, and again among the items that were not seen; 1 is the best place.

    The rank is counted, not sorted: one more than the items with a higher score, and, among equal scores, those that
    come earlier in the catalogue. A target that is not in the catalogue has the rank `NEVER`.

    Args:
        scores: float32 `(n_items,)`, without NaN.
        targets: int64 `(n_targets,)` row numbers, −1 for an item that is not in the catalogue.
        seen: int64 `(n_seen,)` distinct row numbers that are left out of the second ranking.

    Returns:
        int64 `(n_targets,)` twice: among all items, and among all but `seen`. The second is meaningless for a
        target that was seen.
    """
    ranks = np.full(len(targets), NEVER, np.int64)
    ahead = np.zeros(len(targets), np.int64)
    if seen is None:
        seen = np.empty(0, np.int64)
    seen_scores = scores[seen]
    for place, target in enumerate(targets):
        if target < 0:
            continue
        score = scores[target]
        ranks[place] = 1 + np.count_nonzero(scores > score) + np.count_nonzero(scores[:target] == score)
        ahead[place] = np.count_nonzero((seen_scores > score) | ((seen_scores == score) & (seen < target)))
    return ranks, ranks - ahead


def put_broken_last(scores: np.ndarray) -> int:
    """Give scores that are not finite the last place, in place, and return how many were finite."""
    finite = np.isfinite(scores)
    count = int(np.count_nonzero(finite))
    if count < scores.size:
        scores[~finite] = -np.inf
    return count
