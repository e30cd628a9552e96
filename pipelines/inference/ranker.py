"""The learned ranker in ONNX Runtime: features of candidates to one score."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Ranker:
    """An exported ranker and how its heads add up.

    Args:
        heads: Names of the outputs, in their order.
        weights: Weight of each head's logit in the score; heads that are not named count nothing.
    """

    def __init__(self, session: Any, heads: Sequence[str], weights: Mapping[str, float]) -> None:
        self._session = session
        self._weights = np.array([weights.get(name, 0.0) for name in heads], np.float32)

    @property
    def n_features(self) -> int:
        """Number of features of a candidate."""
        return int(self._session.get_inputs()[0].shape[1])

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return float32 `(c, n_heads)` for float32 `(c, n_features)`."""
        logits: np.ndarray = self._session.run(["logits"], {"features": features})[0]
        return logits

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the score of each candidate, float32 `(c,)` in (0, 1): the logistic of the weighted logits."""
        return 1 / (1 + np.exp(-self.logits(features) @ self._weights))
