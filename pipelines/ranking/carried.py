"""What was prepared for a bundle, carried over to the same bundle after items changed: exactly what they do not touch.

A user or a query is touched where a changed item is among what was found, where it would be by what it is now, or where
it is part of the history. A change after which too much may be found that was not before touches all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.inference.bundle import DENSE, Bundle
from pipelines.ranking.candidates import DayCandidates
from pipelines.ranking.learned import ranker_of
from pipelines.ranking.query_results import QueryResult

Neighbors = tuple[np.ndarray, np.ndarray]
"""Rows, int64 `(c,)`, and cosines, float32 `(c,)`, best first."""
MOST_CHANGES = 64
"""Changes, of one item or many, that are looked back on."""
_MOST_ITEMS = 256
"""Changed items that a user or a query is held against; with more it is prepared anew."""


@dataclass(frozen=True)
class ItemChanges:
    """One step from a bundle to the next: the rows that changed."""

    rows: np.ndarray
    """int64 `(m,)`."""
    touches_all: bool = False
    """Whether an item may be found now by what was known of it before, as one that is available again."""


def changed_rows(changes: Sequence[ItemChanges]) -> np.ndarray | None:
    """Return the rows of some changes, int64 `(m,)`; None where everything has to be prepared anew."""
    if any(change.touches_all for change in changes):
        return None
    rows = np.unique(np.concatenate([change.rows for change in changes])) if changes else np.empty(0, np.int64)
    return rows if len(rows) <= _MOST_ITEMS else None


def touches_history(bundle: Bundle, rows: np.ndarray, known: np.ndarray, item_ids: Sequence[str]) -> bool:
    """Whether a changed item is in a history.

    Args:
        known: int64 `(t,)`, its rows as they were known.
        item_ids: All its items.
    """
    if np.isin(known, rows).any():
        return True
    ids = set(item_ids)
    return any(bundle.item_ids[row] in ids for row in rows.tolist())


def touches_candidates(bundle: Bundle, rows: np.ndarray, vector: np.ndarray, found: DayCandidates) -> bool:
    """Whether a changed item is among the candidates of a user, or would be.

    Args:
        vector: float32 `(dim,)`, the user's.
    """
    if np.isin(rows, found.rows).any():
        return True
    shown = rows[bundle.available[rows]]
    if not len(shown):
        return False
    _, per_generator = ranker_of(bundle)
    nearest = found.cosines[found.found_by[:, bundle.generators.index(DENSE)]]
    least = float(nearest.min()) if len(nearest) >= per_generator else 0.0
    return bool((bundle.item_vectors.products(shown, vector) >= least).any())


def touches_query(bundle: Bundle, rows: np.ndarray, query: str, vector: np.ndarray, found: QueryResult) -> bool:
    """Whether a changed item is among what a query found, or would be; one that shares a word may be.

    Args:
        vector: float32 `(dim,)`, the query's.
    """
    if np.isin(rows, found.rows).any():
        return True
    shown = rows[bundle.available[rows]]
    if not len(shown):
        return False
    if not len(found.rows):
        return True
    lexical = bundle.lexical.scores_at(bundle.lexical.query_words(query), shown)
    if (lexical > 0).any():
        return True
    dense = np.maximum(bundle.item_vectors.products(shown, vector), np.float32(0))
    if not found.fused:
        return bool((dense >= found.parts["dense"].min()).any())
    weights = bundle.preprocessing.fusion.search.model_dump()
    share = weights["dense"] / (sum(weights.values()) or 1.0)
    return bool((share * dense >= found.scores[-1]).any())


def touches_neighbors(bundle: Bundle, rows: np.ndarray, row: int, found: Neighbors) -> bool:
    """Whether a changed item is the item asked for, among those nearest to it, or would be."""
    if row in rows or np.isin(rows, found[0]).any():
        return True
    shown = rows[bundle.available[rows]]
    if not len(shown):
        return False
    least = float(found[1][-1]) if len(found[1]) else 0.0
    return bool((bundle.item_vectors.products(shown, bundle.item_vectors[row]) >= least).any()) or least <= 0
