"""Metrics of a search whose answers have grades: the whole corpus is ranked, what nobody judged counts as nothing."""

import numpy as np


def graded_ndcg(ranks: np.ndarray, gains: np.ndarray, k: int = 10) -> float:
    """Return the discounted gain of the first `k` relative to the best order of what was judged, in [0, 1].

        DCG = Σ (2^gain − 1) / log2(rank + 1)

    Source: Burges et al., Learning to rank using gradient descent (2005), for the exponential gain.

    Args:
        ranks: int64 `(n_judged,)`, place of each judged item in the whole ranking, 1 is the best.
        gains: float64 `(n_judged,)`, at least 0.

    Returns:
        NaN where no judged item has a gain: any order would be as good.
    """
    worth = np.exp2(gains) - 1
    best = -np.sort(-worth)[:k]
    ideal = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
    if ideal == 0.0:
        return float("nan")
    found = ranks <= k
    return float((worth[found] / np.log2(ranks[found] + 1)).sum() / ideal)


def share_found(ranks: np.ndarray, k: int = 100) -> float:
    """Return the share of the relevant items among the first `k`, in [0, 1]; NaN where nothing is relevant.

    Args:
        ranks: int64 `(n_relevant,)`.
    """
    return float(np.count_nonzero(ranks <= k) / len(ranks)) if len(ranks) else float("nan")
