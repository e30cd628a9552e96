"""Negatives for the contrastive loss, and how likely each item is to be among them."""

import numpy as np


class NegativeSampler:
    """Draws `n` items by a power of their event count and keeps the distinct ones.

    Source: the exponent 3/4 is that of word2vec (https://arxiv.org/abs/1310.4546); the chance that an item is
    among the distinct ones is 1 − (1 − q)ⁿ, as for every sampling without duplicates
    (https://arxiv.org/abs/1412.2007).
    """

    def __init__(self, event_counts: np.ndarray, n: int, exponent: float = 0.75) -> None:
        chances = (np.asarray(event_counts, np.float64) + 0.1) ** exponent
        chances /= chances.sum()
        self._n = n
        self._cumulative = np.cumsum(chances)
        self.log_chances = np.log(-np.expm1(n * np.log1p(-np.minimum(chances, 1 - 1e-12)))).astype(np.float32)
        """float32 `(n_items,)`, log of the chance that the item is drawn at least once."""

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the distinct items among the draws, int64 `(<= n,)`, rising."""
        drawn = np.searchsorted(self._cumulative, rng.random(self._n))
        return np.unique(np.minimum(drawn, len(self._cumulative) - 1)).astype(np.int64)
