"""Honest baselines: what every challenger is measured against, on the same rows and the same catalogue."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

RECENCY_DECAY = 0.7
"""Weight of an event relative to one of the next newer basket."""
STEPS_AHEAD, STEP_DECAY = 5, 0.8
"""How far directed co-occurrence looks ahead in a history, and what a further step is worth."""
_FORMED_PAIRS = 20_000_000
"""Pairs of items that share a user, up to which item-KNN forms its matrix: 8 bytes each at most."""
_WORD = re.compile(r"(?u)\b\w\w+\b")


class HistoryRows(Protocol):
    """Rows with the history of a user each."""

    @property
    def histories(self) -> Sequence[np.ndarray]:
        """int64 item rows, oldest first, −1 for an item outside the catalogue."""
        ...

    def __len__(self) -> int: ...

    def recency_weights(self, decay: float) -> Sequence[np.ndarray]:
        """Return `decay` to the power of the age of each event of each history, float32."""
        ...


class Popularity:
    """The same ranking for everybody.

    Args:
        counts: float `(n_items,)`, how often each item was bought.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self._counts = counts.astype(np.float32)

    def scores(self, rows: HistoryRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)`."""
        return np.tile(self._counts, (len(rows), 1))


class ItemKnn:
    """Recency-weighted cosine between the users of an item and the users of the items in the history.

    score(j) = Σ_i w_i · |U_i ∩ U_j| / √(|U_i| |U_j|), with U_i the users that bought i and w_i = 0.7^age.
    Where users have few items the item-to-item matrix is formed; else the history is spread over users, and from there
    over items.

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
        sizes = np.bincount(pairs[1], minlength=n_users).astype(np.float64)
        small = float((sizes**2).sum()) <= _FORMED_PAIRS
        self._similar: csr_matrix | None = (bought @ bought.T).tocsr() if small else None

    def scores(self, rows: HistoryRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)`, 0 where nothing is shared."""
        histories = _weighted_histories(rows, self._bought.shape[0])
        if self._similar is not None:
            formed: np.ndarray = (histories @ self._similar).toarray()
            return formed
        over_users = np.ascontiguousarray((histories @ self._bought).toarray().T)
        return np.ascontiguousarray((self._bought @ over_users).T)


class TextProfile:
    """Cosine between an item's text and the recency-weighted mean of the texts in the history.

    Args:
        vectors: float32 `(n_items, dim)`, each row L2 norm 1.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def scores(self, rows: HistoryRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)` in [-1, 1], 0 for a row without history."""
        profiles = _weighted_histories(rows, len(self._vectors)) @ self._vectors
        lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
        profiles /= np.maximum(lengths, 1e-12)
        scores: np.ndarray = profiles @ self._vectors.T
        return scores


class DirectedCooccurrence:
    """What users took within the next five steps after an item of the history, nearer steps counting more.

    score(j) = Σ_i w_i · Σ_(i before j) 0.8^(distance − 1) / √(n_i n_j), with n the events of an item and w_i = 0.7^age.
    A step is an event, or a basket where events come in baskets.

    Args:
        users: int64 `(n_events,)` user numbers, ascending.
        items: int64 `(n_events,)` row numbers of the catalogue.
        orders: int64 `(n_events,)` step of each event in the history of its user, ascending within a user.
        n_items: Size of the catalogue.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, orders: np.ndarray, n_items: int) -> None:
        from scipy.sparse import csr_matrix

        began = np.flatnonzero((np.diff(users, prepend=-1) != 0) | (np.diff(orders, prepend=-1) != 0))
        steps = np.repeat(np.arange(len(began)), np.diff(began, append=len(users)))
        owner = users[began]
        taken: csr_matrix = csr_matrix((np.ones(len(items), np.float32), (steps, items)), shape=(len(began), n_items))
        ahead: csr_matrix = csr_matrix(taken.shape, dtype=np.float32)
        for distance in range(1, STEPS_AHEAD + 1):
            start = np.flatnonzero(owner[distance:] == owner[:-distance]) if distance < len(owner) else owner[:0]
            worth = np.full(len(start), STEP_DECAY ** (distance - 1), np.float32)
            moved: csr_matrix = csr_matrix((worth, (start, start + distance)), shape=(len(began), len(began)))
            ahead = ahead + moved @ taken
        counts = np.bincount(items, minlength=n_items).astype(np.float32)
        scale = 1 / np.sqrt(np.maximum(counts, 1))
        followed: csr_matrix = (taken.T @ ahead).tocsr()
        followed.data *= np.repeat(scale, np.diff(followed.indptr)) * scale[followed.indices]
        self._followed = followed
        """float32 sparse `(n_items, n_items)`: row i has what came after i."""

    def scores(self, rows: HistoryRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)`, 0 where nothing ever followed."""
        scores: np.ndarray = (_weighted_histories(rows, self._followed.shape[0]) @ self._followed).toarray()
        return scores


class OwnHistory:
    """What the user took before, often and lately: the items of the history by Σ decay^age.

    Args:
        decay: Weight of an event relative to one of the next newer basket.
    """

    def __init__(self, n_items: int, decay: float) -> None:
        self._n_items = n_items
        self._decay = decay

    def scores(self, rows: HistoryRows) -> np.ndarray:
        """Return float32 `(n_rows, n_items)`, 0 for an item that is not in the history."""
        scores: np.ndarray = _weighted_histories(rows, self._n_items, self._decay).toarray()
        return scores


class TfIdf:
    """Words and pairs of neighboring words, weighed by how rare they are among the items' texts.

    weight = count · (ln((1 + n) / (1 + df)) + 1), each text scaled to L2 norm 1. Words have two characters at least; a
    term of one text only connects nothing and is left out.

    Source: Salton and Buckley, Term-weighting approaches in automatic text retrieval (1988), smoothed as in
    scikit-learn's `TfidfVectorizer(ngram_range=(1, 2), min_df=2)`.

    Args:
        texts: One text per item, in row order.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._terms: dict[str, int] = {}
        counts = self._counts(texts, grow=True)
        frequency = np.bincount(counts.indices, minlength=len(self._terms))
        kept = np.flatnonzero(frequency >= 2)
        new_number = {int(old): new for new, old in enumerate(kept)}
        self._terms = {term: new_number[old] for term, old in self._terms.items() if old in new_number}
        counts, frequency = counts[:, kept], frequency[kept]
        self._rarity = (np.log((1 + len(texts)) / (1 + frequency)) + 1).astype(np.float32)
        self._items = self._weighed(counts)
        """float32 sparse `(n_items, n_terms)`, each row L2 norm 1, or 0 for a text without a word."""

    def scores(self, rows: HistoryRows) -> np.ndarray:
        """Return the cosine with the texts of the history, up to a factor a row, float32 `(n_rows, n_items)`."""
        profiles = _weighted_histories(rows, self._items.shape[0]) @ self._items
        scores: np.ndarray = (profiles @ self._items.T).toarray()
        return scores

    def search_scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return the cosine of query and item, float32 `(n_queries, n_items)`."""
        scores: np.ndarray = (self._weighed(self._counts(queries, grow=False)) @ self._items.T).toarray()
        return scores

    def _counts(self, texts: Sequence[str], *, grow: bool) -> "csr_matrix":
        """Return how often each known term occurs, float32 `(n_texts, n_terms)`; `grow` learns new terms."""
        from scipy.sparse import csr_matrix

        places, terms = [], []
        for place, text in enumerate(texts):
            words = _WORD.findall(text.lower())
            for term in (*words, *map(" ".join, pairwise(words))):
                number = self._terms.setdefault(term, len(self._terms)) if grow else self._terms.get(term, -1)
                if number >= 0:
                    places.append(place)
                    terms.append(number)
        ones = np.ones(len(terms), np.float32)
        counts: csr_matrix = csr_matrix((ones, (places, terms)), shape=(len(texts), len(self._terms)))
        counts.sum_duplicates()
        return counts

    def _weighed(self, counts: "csr_matrix") -> "csr_matrix":
        counts.data *= self._rarity[counts.indices]
        lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
        counts.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(counts.indptr)).astype(np.float32)
        return counts


def _weighted_histories(rows: HistoryRows, n_items: int, decay: float = RECENCY_DECAY) -> "csr_matrix":
    """Return float32 sparse `(n_rows, n_items)`: the summed recency weights of the known items of each history."""
    from scipy.sparse import csr_matrix

    places = np.repeat(np.arange(len(rows)), [len(history) for history in rows.histories])
    items = np.concatenate([*rows.histories, np.empty(0, np.int64)])
    values = np.concatenate([*rows.recency_weights(decay), np.empty(0, np.float32)])
    known = items >= 0
    return csr_matrix((values[known], (places[known], items[known])), shape=(len(rows), n_items))
