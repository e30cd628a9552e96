"""Diversity: an item counts less the more it is like those before it."""

import numpy as np


def diversify(scores: np.ndarray, vectors: np.ndarray, weight: float, n: int) -> np.ndarray:
    """Return the order in which the first `n` are good and unlike each other; the others follow as they were.

    The next item is the one with the largest (1 - weight) * score / best score - weight * cosine with the most similar
    item before it, so the scale of the scores does not matter; ties go to the better one. A weight of 0 changes
    nothing.

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
    top = float(scores.max(initial=0.0))
    if weight <= 0 or len(scores) < 3 or top <= 0:
        return np.arange(len(scores))
    values = scores * np.float32((1 - weight) / top)
    likeness = np.maximum(vectors @ vectors.T, 0) * np.float32(weight)
    np.fill_diagonal(likeness, np.inf)
    nearest = likeness[0].copy()
    picked = [0]
    for _ in range(min(n, len(scores)) - 1):
        best = int((values - nearest).argmax())
        picked.append(best)
        np.maximum(nearest, likeness[best], out=nearest)
    left = np.ones(len(scores), bool)
    left[picked] = False
    return np.concatenate([np.array(picked, np.int64), np.flatnonzero(left)])
