"""Item-to-item tables of behavior without decay: who shares users, and what follows what."""

from typing import Any

import numpy as np

from pipelines.retrieval.neighbors import NeighborTable, best_of_links, best_of_matrix, stacked

_BLOCK = 4_096


def build_shared_users(
    users: np.ndarray, items: np.ndarray, n_items: int, *, neighbors: int = 50, max_user_items: int = 400
) -> NeighborTable:
    """Find for each item those that the same people touched.

        sim(i, j) = |U_i ∩ U_j| / √(|U_i| |U_j|)

    Args:
        users: int64 `(n_events,)` user numbers.
        items: int64 `(n_events,)` row numbers, in the order of time.
        max_user_items: Newest distinct items of a user that count: the work grows with their square.

    Source: Sarwar et al., Item-based collaborative filtering (2001), on binary data.
    """
    from scipy import sparse

    users, items = _newest_distinct(users, items, max_user_items)
    ones = np.ones(len(items), np.float32)
    touched = sparse.csr_matrix((ones, (users, items)), shape=(int(users.max(initial=-1)) + 1, n_items))
    scale = _inverse_root(np.bincount(items, minlength=n_items))
    scaled: Any = touched.multiply(scale[None, :]).tocsc()
    parts = []
    for start in range(0, n_items, _BLOCK):
        block = (scaled[:, start : start + _BLOCK].T.tocsr() @ scaled).tocoo()
        others = block.row + start != block.col
        size = min(_BLOCK, n_items - start)
        parts.append(best_of_links(block.row[others], block.col[others], block.data[others], size, neighbors))
    return stacked(parts) if parts else NeighborTable.empty(n_items)


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


def _newest_distinct(users: np.ndarray, items: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each distinct (user, item), of each user the `most` newest."""
    order = np.argsort(users, kind="stable")[::-1]  # newest first within a user
    users, items = users[order], items[order]
    _, first = np.unique(np.stack([users, items]), axis=1, return_index=True)
    first.sort()
    users, items = users[first], items[first]
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]])) if len(users) else np.empty(0, int)
    lengths = np.diff(np.append(starts, len(users)))
    kept = np.arange(len(users)) - np.repeat(starts, lengths) < most
    return users[kept], items[kept]


def _inverse_root(counts: np.ndarray) -> np.ndarray:
    roots: np.ndarray = (1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)
    return roots
