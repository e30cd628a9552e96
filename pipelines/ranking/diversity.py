"""Diversity: an item counts less the more it is like those before it."""

import numpy as np


def diversify(scores: np.ndarray, vectors: np.ndarray, weight: float, n: int) -> np.ndarray:
    """Return the order in which the first `n` are good and unlike each other; the others follow as they were.

    The next item is the one with the largest (1 - weight) * score / best score - weight * cosine with the most similar
    item before it (below 0 counts as 0), so the scale of the scores does not matter; ties go to the better one. A
    weight of 0 changes nothing.

    Source: maximal marginal relevance, Carbonell & Goldstein, The use of MMR, diversity-based reranking (1998), with
    lambda = 1 - weight.

    Args:
        scores: float32 `(m,)`, at least 0, falling but for what rules have moved.
        vectors: float32 `(m, dim)`, each row L2 norm 1.
        weight: In [0, 1).
        n: Items to pick one by one.

    Returns:
        int64 `(m,)`, a permutation of the places.
    """
    top = max(scores.tolist(), default=0.0)
    if weight <= 0 or len(scores) < 3 or top <= 0:
        return np.arange(len(scores))
    values = scores * np.float32((1 - weight) / top)
    nearest = np.zeros(len(scores), np.float32)
    picked = [0]
    for _ in range(min(n, len(scores)) - 1):
        last = picked[-1]
        np.maximum(nearest, vectors @ (vectors[last] * np.float32(weight)), out=nearest)
        values[last] = -np.inf
        picked.append(int((values - nearest).argmax()))
    left = np.ones(len(scores), bool)
    left[picked] = False
    return np.concatenate([np.array(picked, np.int64), np.flatnonzero(left)])
