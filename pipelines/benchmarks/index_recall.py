"""What the index of a bundle misses: its nearest 100 against a product with every vector, for each kind of question."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from pipelines.inference.bundle import Bundle
    from pipelines.retrieval.vector_index import Asker

K = 100
_SHORT = 3
"""Events of a short history at most."""


class Index(Protocol):
    """Finds the items nearest to a vector."""

    def nearest(
        self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None, *, asker: "Asker" = "query"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return row numbers and cosines of the nearest items, best first."""
        ...


@dataclass(frozen=True)
class History:
    """A user of the bench, as the online store knows one."""

    item_ids: list[str]
    event_types: list[str]
    event_times: list[int]
    activity: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """Questions of one kind."""

    asker: "Asker"
    vectors: np.ndarray
    """float32 `(n, dim)`, each row L2 norm 1."""


def index_recall(index: Index, vectors: np.ndarray, asked: Asked, k: int = K) -> np.ndarray:
    """Return the share of the true nearest `k` that the index finds, float64 `(n,)`, one a vector asked for.

    Args:
        index: What is measured.
        vectors: float32 `(n_items, dim)`.
        asked: The questions.
        k: How many nearest.
    """
    found = np.empty(len(asked.vectors))
    for number, vector in enumerate(asked.vectors):
        scores = vectors @ vector
        true = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        rows, _ = index.nearest(vector, k, asker=asked.asker)
        found[number] = len(np.intersect1d(true, rows)) / len(true)
    return found


def asked_vectors(bundle: "Bundle", queries: Sequence[str], users: Sequence[History], now_s: float) -> dict[str, Asked]:
    """Return what the service would ask its index for: queries, and users with known items, now and when new."""
    short = [_newest(user, 1 + number % _SHORT) for number, user in enumerate(users)]
    return {
        "queries": Asked("query", bundle.encode_queries(queries)),
        "users": Asked("user", _known(bundle, users, now_s)),
        "short histories": Asked("user", _known(bundle, short, now_s)),
    }


def _newest(user: History, count: int) -> History:
    return History(user.item_ids[-count:], user.event_types[-count:], user.event_times[-count:])


def _known(bundle: "Bundle", users: Sequence[History], now_s: float) -> np.ndarray:
    embedded = [bundle.user_embedding(user, now_s) for user in users]
    vectors = [one[0] for one in embedded if one is not None]
    return np.stack(vectors) if vectors else np.empty((0, bundle.dim), np.float32)
