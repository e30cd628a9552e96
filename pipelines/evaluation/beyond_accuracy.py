"""What lists are like, whoever was right: how much of the catalogue they show, how known, how varied, how lopsided.

Source: Castells, Hurley and Vargas, Novelty and diversity in recommender systems (2015); Gini index as in Fleder and
Hosanagar (2009).
"""

import numpy as np


def coverage(top: np.ndarray, n_items: int) -> float:
    """Return the share of the catalogue that is in any list, in [0, 1].

    Args:
        top: int32 `(n, k)` items of each list, −1 where a list is shorter.
    """
    return len(np.unique(top[top >= 0])) / n_items


def novelty_bits(top: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean self-information −log2 p of each list's items, float64 `(n,)`; NaN for an empty list.

    p is an item's share of all known events, each item counted once more than it happened, so that an item without
    events is finite.

    Args:
        top: int32 `(n, k)`, −1 where a list is shorter.
        counts: float `(n_items,)`, known events of each item.
    """
    shares = (counts + 1.0) / (counts.sum() + len(counts))
    return _list_means(top, -np.log2(shares))


def popularity_ranks(top: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean popularity rank of each list's items, float64 `(n,)`: 1 is the most popular item.

    Items with as many events share the mean of their places.
    """
    distinct, codes = np.unique(-counts, return_inverse=True)
    sizes = np.bincount(codes, minlength=len(distinct))
    ends = np.cumsum(sizes)
    ranks = (ends - (sizes - 1) / 2)[codes]
    return _list_means(top, ranks.astype(np.float64))


def diversity(top: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the mean distance 1 − cosine over the pairs of each list, float64 `(n,)`; NaN below two items.

    Args:
        top: int32 `(n, k)`, −1 where a list is shorter.
        vectors: float32 `(n_items, dim)`, each row L2 norm 1 (or 0 for an item without text).
    """
    out = np.full(len(top), np.nan)
    for place, items in enumerate(top):
        found = vectors[items[items >= 0]].astype(np.float64)
        n = len(found)
        if n >= 2:
            whole = found.sum(axis=0)
            pairs = float(whole @ whole - (found**2).sum()) / (n * (n - 1))
            out[place] = 1 - pairs
    return out


def gini(top: np.ndarray, n_items: int) -> float:
    """Return how unequally the lists use the catalogue, in [0, 1): 0 shows every item equally often."""
    shown = np.sort(np.bincount(top[top >= 0], minlength=n_items)).astype(np.float64)
    if shown.sum() == 0:
        return 0.0
    places = np.arange(1, n_items + 1)
    return float(((2 * places - n_items - 1) * shown).sum() / (n_items * shown.sum()))


def _list_means(top: np.ndarray, values: np.ndarray) -> np.ndarray:
    listed = top >= 0
    sums = np.where(listed, values[np.maximum(top, 0)], 0.0).sum(axis=1)
    sizes = listed.sum(axis=1)
    means: np.ndarray = np.divide(sums, sizes, out=np.full(len(top), np.nan), where=sizes > 0)
    return means
