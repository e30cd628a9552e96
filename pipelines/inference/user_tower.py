"""The user tower: behaviour to unit vector with ONNX Runtime."""

from typing import Any

import numpy as np

from pipelines.inference.preprocessing import BehaviorBatch
from pipelines.retrieval.dense import ItemVectors


class UserTower:
    """An exported user tower over the item vectors of its bundle."""

    def __init__(self, session: Any, item_vectors: ItemVectors) -> None:
        self._session = session
        self._item_vectors = item_vectors

    def over(self, item_vectors: ItemVectors) -> "UserTower":
        """Return the same tower over other item vectors."""
        return UserTower(self._session, item_vectors)

    def embed(self, batch: BehaviorBatch, activity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return user embeddings and what they attended to.

        Args:
            batch: `b` users with at least one event each.
            activity: float32 `(b, a)`.

        Returns:
            float32 `(b, dim)`, each row L2 norm 1, and float32 `(b, t)`, each row sums to 1 over its events.
        """
        embedding, attention = self._run(["user_embedding", "attention"], batch, activity)
        return embedding, attention

    def vectors(self, batch: BehaviorBatch, activity: np.ndarray) -> np.ndarray:
        """Return the embeddings of `embed` alone, which takes a fifth less time."""
        embedding: np.ndarray = self._run(["user_embedding"], batch, activity)[0]
        return embedding

    def _run(self, outputs: list[str], batch: BehaviorBatch, activity: np.ndarray) -> list[np.ndarray]:
        vectors = self._item_vectors[np.maximum(batch.item_rows, 0)]
        if len(vectors) > 1:  # one history has no padding
            vectors *= batch.mask[:, :, None]
        found: list[np.ndarray] = self._session.run(
            outputs,
            {
                "item_vectors": vectors,
                "event_types": batch.event_types,
                "gap_buckets": batch.gap_buckets,
                "mask": batch.mask,
                "activity": activity,
            },
        )
        return found
