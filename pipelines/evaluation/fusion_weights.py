"""Weights of a sum of parts, chosen on validation rows: what untrained hybrids are made with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CANDIDATES = 200
"""Best items of each part that take part while weights are chosen."""
STEPS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Weights that are tried."""
_ROUNDS = 3
_K = 10


@dataclass(frozen=True)
class PartTable:
    """The candidates of `n` rows: the best items of each part, and the items that are wanted."""

    parts: np.ndarray
    """float32 `(n, n_candidates, n_parts)`, −inf in the first part where a row has fewer candidates."""
    gains: np.ndarray
    """float32 `(n, n_candidates)`, 0 for an item that is not wanted."""


def relative(scores: np.ndarray) -> np.ndarray:
    """Return scores relative to the best of each row, negative ones as 0, float32 of the same shape in [0, 1]."""
    positive: np.ndarray = np.maximum(scores, 0)
    best = positive.max(axis=1, keepdims=True, initial=0.0)
    return np.divide(positive, best, out=np.zeros_like(positive), where=best > 0)


def candidate_table(
    parts: Sequence[np.ndarray], wanted: Sequence[np.ndarray], gains: Sequence[np.ndarray], seen: Sequence[np.ndarray]
) -> PartTable:
    """Gather the candidates of a block of rows.

    Args:
        parts: float32 `(n, n_items)` each; overwritten where `seen`.
        wanted: int64 item rows of each row.
        gains: float64, what each wanted item is worth.
        seen: int64 item rows that are left out of each row.
    """
    n_rows, n_items = parts[0].shape
    for part in parts:
        for place, items in enumerate(seen):
            part[place, items] = -1.0
    k = min(CANDIDATES, n_items)
    best = np.concatenate([np.argpartition(-part, k - 1, axis=1)[:, :k] for part in parts], axis=1)
    rows = [np.unique(np.concatenate([best[place], wanted[place]])) for place in range(n_rows)]
    width = len(parts) * k + max(len(items) for items in wanted)
    table = np.zeros((n_rows, width, len(parts)), np.float32)
    table[:, :, 0] = -np.inf
    worth = np.zeros((n_rows, width), np.float32)
    for place, items in enumerate(rows):
        table[place, : len(items)] = np.stack([part[place, items] for part in parts], axis=1)
        worth[place, np.searchsorted(items, wanted[place])] = gains[place]
    return PartTable(table, worth)


def joined_tables(tables: Sequence[PartTable]) -> PartTable:
    """Return blocks of rows as one table."""
    width = max(table.gains.shape[1] for table in tables)
    n_parts = tables[0].parts.shape[2]
    rows = sum(len(table.gains) for table in tables)
    parts = np.zeros((rows, width, n_parts), np.float32)
    parts[:, :, 0] = -np.inf
    gains = np.zeros((rows, width), np.float32)
    start = 0
    for table in tables:
        stop, filled = start + len(table.gains), table.gains.shape[1]
        parts[start:stop, :filled], gains[start:stop, :filled] = table.parts, table.gains
        start = stop
    return PartTable(parts, gains)


def mean_ndcg(table: PartTable, weights: np.ndarray) -> float:
    """Return the mean NDCG@10 of the weighted sum over the rows where something is wanted, in [0, 1].

    Args:
        weights: float `(n_parts,)`.
    """
    empty = np.isneginf(table.parts[:, :, 0])
    scores = np.where(empty[:, :, None], 0, table.parts) @ weights.astype(np.float32)
    scores[empty] = -np.inf
    k = min(_K, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable"), 1)
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = (np.take_along_axis(table.gains, order, 1) * discounts).sum(axis=1)
    ideal = (-np.sort(-table.gains, axis=1)[:, :k] * discounts).sum(axis=1)
    counted = ideal > 0
    return float((found[counted] / ideal[counted]).mean()) if counted.any() else 0.0


def choose_weights(table: PartTable, names: Sequence[str]) -> Mapping[str, float]:
    """Return the weights with the best mean NDCG@10, the first part's weight being 1.

    One weight after the other is set to the best of `STEPS`, a few rounds long; the smaller weight wins a tie.
    """
    weights = np.ones(len(names))
    for _ in range(_ROUNDS):
        before = weights.copy()
        for place in range(1, len(names)):
            tried = []
            for step in STEPS:
                weights[place] = step
                tried.append(mean_ndcg(table, weights))
            weights[place] = STEPS[int(np.argmax(tried))]
        if np.array_equal(before, weights):
            break
    return {name: float(weight) for name, weight in zip(names, weights, strict=True)}
