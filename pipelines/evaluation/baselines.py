"""Honest baselines: what every challenger is measured against, on the same rows and the same catalogue."""

from typing import TYPE_CHECKING

import numpy as np

from pipelines.evaluation.rows import EvaluationRows
from pipelines.retrieval.cooccurrence import history_weights

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

RECENCY_DECAY = 0.7
"""Weight of an event relative to one of the next newer basket."""


class Popularity:
    """The same ranking for everybody.

    Args:
        counts: float `(n_items,)`, how often each item was bought.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self._counts = counts.astype(np.float32)

    def scores(self, rows: EvaluationRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)`."""
        return np.tile(self._counts, (len(rows), 1))


class ItemKnn:
    """Recency-weighted cosine between the users of an item and the users of the items in the history.

    score(j) = Σ_i w_i · |U_i ∩ U_j| / √(|U_i| |U_j|), with U_i the users that bought i and w_i = 0.7^age.
    The item-to-item matrix is never formed: the history is spread over users, and from there over items.

    Source: Sarwar et al., Item-based collaborative filtering (2001), on binary data.

    Args:
        users: int64 `(n_events,)` user numbers.
        items: int64 `(n_events,)` row numbers of the catalogue.
        n_items: Size of the catalogue.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, n_items: int) -> None:
        from scipy.sparse import csr_matrix

        pairs = np.unique(np.stack([items, users]), axis=1)
        n_users = int(users.max(initial=-1)) + 1
        ones = np.ones(pairs.shape[1], np.float32)
        bought: csr_matrix = csr_matrix((ones, (pairs[0], pairs[1])), shape=(n_items, n_users))
        counts = np.bincount(pairs[0], minlength=n_items).astype(np.float32)
        bought.data /= np.sqrt(counts)[pairs[0]]
        self._bought = bought
        """float32 sparse `(n_items, n_users)`, each row L2 norm 1."""

    def scores(self, rows: EvaluationRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)`, 0 where nothing is shared."""
        histories = _weighted_histories(rows, self._bought.shape[0])
        over_users = np.ascontiguousarray((histories @ self._bought).toarray().T)
        return np.ascontiguousarray((self._bought @ over_users).T)


class TextProfile:
    """Cosine between an item's text and the recency-weighted mean of the texts in the history.

    Args:
        vectors: float32 `(n_items, dim)`, each row L2 norm 1.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def scores(self, rows: EvaluationRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)` in [-1, 1], 0 for a row without history."""
        profiles = _weighted_histories(rows, len(self._vectors)) @ self._vectors
        lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
        profiles /= np.maximum(lengths, 1e-12)
        scores: np.ndarray = profiles @ self._vectors.T
        return scores


def _weighted_histories(rows: EvaluationRows, n_items: int) -> "csr_matrix":
    """Return float32 sparse `(n_rows, n_items)`: the summed recency weights of the known items of each history."""
    from scipy.sparse import csr_matrix

    weights = [history_weights(user.event_times, RECENCY_DECAY) for user in rows.features]
    places = np.repeat(np.arange(len(rows)), [len(history) for history in rows.histories])
    items = np.concatenate([*rows.histories, np.empty(0, np.int64)])
    values = np.concatenate([*weights, np.empty(0, np.float32)])
    known = items >= 0
    return csr_matrix((values[known], (places[known], items[known])), shape=(len(rows), n_items))
