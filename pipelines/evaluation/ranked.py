"""What one case did on one set of rows: the rank of every target and the first items of every list.

All metrics, slices and list properties follow from this, so it is what a benchmark keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from pipelines.evaluation.ranks import target_ranks

TOP_K = 10


class AskedRows(Protocol):
    """Rows with targets: what ranking needs to know of them."""

    @property
    def targets(self) -> Sequence[np.ndarray]:
        """int64 item rows, −1 for an item outside the catalogue."""
        ...

    @property
    def new_targets(self) -> Sequence[np.ndarray]:
        """int64, those of the targets that the user had not seen, in any order."""
        ...

    @property
    def seen(self) -> Sequence[np.ndarray]:
        """int64, distinct item rows that the user had seen."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class RankedRows:
    """Ranks and lists of `n` rows; 1 is the best rank."""

    new: np.ndarray
    """int64 `(n_new_targets,)`, ranks of the rows' new targets one after the other, what was seen left out."""
    every: np.ndarray
    """int64 `(n_targets,)`, ranks of all targets among all items."""
    top: np.ndarray
    """int32 `(n, 10)`, the best items that were not seen, best first, −1 where there are no more."""


def rank_rows(rows: AskedRows, scores: np.ndarray) -> RankedRows:
    """Rank the whole catalogue for each row; equal scores: the item that comes first in the catalogue wins.

    Args:
        scores: float32 `(n, n_items)` without NaN; overwritten.
    """
    new, every = [], []
    for place in range(len(rows)):
        row, targets, seen = scores[place], rows.targets[place], rows.seen[place]
        among_all, among_unseen = target_ranks(row, targets, seen)
        every.append(among_all)
        new.append(among_unseen[_places_of(rows.new_targets[place], targets)])
        row[seen] = -np.inf
    return RankedRows(_joined(new), _joined(every), top_items(scores))


def top_items(scores: np.ndarray, k: int = TOP_K) -> np.ndarray:
    """Return the `k` best items of each row, best first, equal scores in catalogue order; int32 `(n, k)`.

    Items with a score of −inf are never listed; −1 fills what is left.
    """
    n_rows, n_items = scores.shape
    out = np.full((n_rows, k), -1, np.int32)
    wanted = min(k, n_items)
    for place, row in enumerate(scores):
        border = np.partition(row, n_items - wanted)[n_items - wanted]
        above = np.flatnonzero(row > border)
        level = np.flatnonzero(row == border)[: wanted - len(above)] if border > -np.inf else above[:0]
        chosen = np.concatenate([above[np.argsort(-row[above], kind="stable")], level])
        out[place, : len(chosen)] = chosen
    return out


def joined_rows(parts: Sequence[RankedRows]) -> RankedRows:
    """Return blocks of rows as one."""
    return RankedRows(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(RankedRows)))


def row_metrics(ranks: np.ndarray, rows: np.ndarray, n_rows: int) -> dict[str, np.ndarray]:
    """Return recall@10, recall@100, ndcg@10 and mrr of each row, float64 `(n_rows,)`, NaN for a row without targets.

    The same as `pipelines.evaluation.metrics.METRICS` one row at a time.

    Args:
        ranks: int64 `(n_targets,)`.
        rows: int64 `(n_targets,)`, the row that each target belongs to.
    """
    counts = np.bincount(rows, minlength=n_rows).astype(np.float64)
    counted = np.where(counts > 0, counts, np.nan)
    discounts = np.where(ranks <= 10, 1 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0)
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 12)))])[np.minimum(counts, 10).astype(np.int64)]
    first = np.full(n_rows, np.inf)
    np.minimum.at(first, rows, ranks.astype(np.float64))

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows, weights=values, minlength=n_rows)

    return {
        "recall@10": total(ranks <= 10) / counted,
        "recall@100": total(ranks <= 100) / counted,
        "ndcg@10": total(discounts) / np.where(counts > 0, best, np.nan),
        "mrr": np.where(counts > 0, 1 / first, np.nan),
    }


def row_numbers(targets: Sequence[np.ndarray]) -> np.ndarray:
    """Return the row of each target when targets are laid one after the other, int64."""
    return np.repeat(np.arange(len(targets)), [len(found) for found in targets])


def _places_of(chosen: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return where each of the chosen targets stands among the targets, int64."""
    order = np.argsort(targets, kind="stable")
    places: np.ndarray = order[np.searchsorted(targets, chosen, sorter=order)]
    return places


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)
