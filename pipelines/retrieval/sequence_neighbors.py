"""The item-to-item table of order: what follows what."""

from typing import Any

import numpy as np

from pipelines.retrieval.neighbors import NeighborTable, best_of_matrix


def build_successors(
    users: np.ndarray, items: np.ndarray, n_items: int, *, neighbors: int = 50, reach: int = 5, decay: float = 0.8
) -> NeighborTable:
    """Find for each item those that follow it within `reach` steps of the same user.

        score(i → j) = Σ decay^(distance − 1) / √(n_i n_j)

    Args:
        users: int64 `(n_events,)` user numbers.
        items: int64 `(n_events,)` row numbers, in the order of time within each user.
    """
    from scipy import sparse

    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    total: Any = sparse.csr_matrix((n_items, n_items), dtype=np.float32)
    for distance in range(1, reach + 1):
        same = users[:-distance] == users[distance:]
        before, after = items[:-distance][same], items[distance:][same]
        weight = np.full(len(before), decay ** (distance - 1), np.float32)
        total = total + sparse.csr_matrix((weight, (before, after)), shape=(n_items, n_items))
    scale = sparse.diags(_inverse_root(np.bincount(items, minlength=n_items)))
    return best_of_matrix((scale @ total @ scale).tocsr(), neighbors)


def _inverse_root(counts: np.ndarray) -> np.ndarray:
    roots: np.ndarray = (1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)
    return roots
