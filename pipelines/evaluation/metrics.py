"""Ranking metrics of one row, from the ranks of its targets (1 is the best place).

Every target counts the same, and every item of the catalogue takes part: there are no sampled negatives.
"""

import numpy as np


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Return the share of the targets among the first `k`, in [0, 1].

    Args:
        ranks: int64 `(n_targets,)`, at least one.
    """
    return float(np.count_nonzero(ranks <= k) / len(ranks))


def ndcg_at(ranks: np.ndarray, k: int) -> float:
    """Return the discounted gain of the first `k` relative to the best possible one, in [0, 1].

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques (2002); gains are 0 or 1, and the
    discount is log2(rank + 1).

    Args:
        ranks: int64 `(n_targets,)`, at least one.
    """
    found = ranks[ranks <= k]
    best = np.arange(1, min(len(ranks), k) + 1)
    return float((1 / np.log2(found + 1)).sum() / (1 / np.log2(best + 1)).sum())


def reciprocal_rank(ranks: np.ndarray) -> float:
    """Return 1 / rank of the first target in the whole ranking, in (0, 1].

    Args:
        ranks: int64 `(n_targets,)`, at least one.
    """
    return float(1 / ranks.min())


METRICS = {
    "recall@10": lambda ranks: recall_at(ranks, 10),
    "recall@100": lambda ranks: recall_at(ranks, 100),
    "ndcg@10": lambda ranks: ndcg_at(ranks, 10),
    "mrr": reciprocal_rank,
}
"""What a report shows, in its order."""
