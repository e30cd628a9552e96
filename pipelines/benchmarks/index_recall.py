"""What the index of a bundle misses: its nearest 100 against a product with every vector, for queries and for users."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from pipelines.inference.bundle import Bundle

K = 100


class Index(Protocol):
    """Finds the items nearest to a vector."""

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return row numbers and cosines of the nearest items, best first."""
        ...


@dataclass(frozen=True)
class History:
    """A user of the bench, as the online store knows one."""

    item_ids: list[str]
    event_types: list[str]
    event_times: list[int]
    activity: dict[str, float | None] = field(default_factory=dict)


def index_recall(index: Index, vectors: np.ndarray, asked: np.ndarray, k: int = K) -> np.ndarray:
    """Return the share of the true nearest `k` that the index finds, float64 `(n,)`, one a vector asked for.

    Args:
        index: What is measured.
        vectors: float32 `(n_items, dim)`.
        asked: float32 `(n, dim)`, each row L2 norm 1.
        k: How many nearest.
    """
    found = np.empty(len(asked))
    for number, vector in enumerate(asked):
        scores = vectors @ vector
        true = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        rows, _ = index.nearest(vector, k)
        found[number] = len(np.intersect1d(true, rows)) / len(true)
    return found


def asked_vectors(bundle: "Bundle", queries: Sequence[str], users: Sequence[History], now_s: float) -> np.ndarray:
    """Return what the service would ask its index for, float32 `(n, dim)`: queries, then users with known items."""
    embedded = [bundle.user_embedding(user, now_s) for user in users]
    return np.concatenate([bundle.encode_queries(queries), *([one[0][None] for one in embedded if one is not None])])
