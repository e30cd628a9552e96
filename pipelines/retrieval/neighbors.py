"""Item-to-item tables: for each item a short list of others with a score, as they are built and stored.

`pipelines.retrieval.links` is how answers read them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DataError
from pipelines.retrieval.packed_rows import pack_rows, unpack_rows

_FILES = ("counts", "ids", "high_bits", "scores", "levels")
_LEVELS = 256
"""Distinct scores of a file."""


@dataclass(frozen=True)
class NeighborTable:
    """Neighbors of `n` items, each list best first, in compressed rows."""

    offsets: np.ndarray
    """int64 `(n + 1,)`: the neighbors of item i lie from `offsets[i]` to `offsets[i + 1]`."""
    ids: np.ndarray
    """int32 `(n_links,)`, row numbers."""
    scores: np.ndarray
    """float32 `(n_links,)`, above 0."""

    def __len__(self) -> int:
        """Number of items."""
        return len(self.offsets) - 1

    @classmethod
    def from_padded(cls, ids: np.ndarray, scores: np.ndarray) -> "NeighborTable":
        """Make a table of int32 `(n, m)` row numbers padded with −1, and scores of the same shape."""
        kept = ids >= 0
        offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
        return cls(offsets, ids[kept].astype(np.int32), scores[kept].astype(np.float32))

    @classmethod
    def empty(cls, n_items: int) -> "NeighborTable":
        """Return a table in which nobody has a neighbor."""
        return cls(np.zeros(n_items + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

    def of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbors of one item, best first: int32 `(k,)` and float32 `(k,)`."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return self.ids[part], self.scores[part]

    def save(self, folder: Path) -> None:
        """Write five `.npy` files, a little over three bytes a link.

        counts       uint16 (n,), links of each item
        ids          uint16 (n_links,), low bits of the row numbers
        high_bits    uint8 (bits, ⌈n_links / 8⌉), the bits above 16 that `n` needs, one plane a bit
        scores       uint8 (n_links,), numbers of levels
        levels       float32 (≤ 256,), the distinct scores, or as many at equal distances of their logarithms

        Raises:
            DataError: a score is not a number above 0, or an item has more links than 65,535.
        """
        counts = np.diff(self.offsets)
        if not (np.isfinite(self.scores).all() and (self.scores > 0).all() and counts.max(initial=0) < 2**16):
            raise DataError(
                f"The neighbors cannot be written to {folder}: every score must be a number above 0, and no item may "
                f"have more than {2**16 - 1:,} neighbors (most: {counts.max(initial=0):,}). Build the table again."
            )
        levels, codes = _score_levels(self.scores)
        low, high_bits = pack_rows(self.ids, len(self))
        values = {
            "counts": counts.astype(np.uint16),
            "ids": low,
            "high_bits": high_bits,
            "scores": codes,
            "levels": levels,
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            np.save(folder / f"{name}.npy", np.ascontiguousarray(values[name]), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "NeighborTable":
        """Read what `save` wrote; a score is off by 2 % where more than 256 of them span four powers of ten.

        Raises:
            DataError: the files do not fit together.
        """
        counts, low, planes, codes, levels = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in _FILES)
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        try:
            ids = unpack_rows(low, planes, len(counts))
        except DataError as error:
            raise DataError(f"The neighbors in {folder} are broken: {error}. Make the bundle again.") from None
        if len(codes) and int(codes.max()) >= len(levels):
            raise DataError(f"The neighbors in {folder} are broken: levels are missing. Make the bundle again.")
        table = cls(offsets, ids, levels[codes] if len(codes) else np.empty(0, np.float32))
        if problem := table.problem():
            raise DataError(f"The neighbors in {folder} are broken: {problem}. Make the bundle again.")
        return table

    def problem(self) -> str | None:
        """Say what does not fit together; None where all does."""
        if len(self.offsets) < 1 or self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any():
            return "the offsets do not rise from 0"
        if self.offsets[-1] != len(self.ids) or len(self.ids) != len(self.scores):
            return f"{len(self.ids):,} ids and {len(self.scores):,} scores for {self.offsets[-1]:,} links"
        if len(self.ids) and not 0 <= self.ids.min() <= self.ids.max() < len(self):
            return "it points to items that do not exist"
        if not np.isfinite(self.scores).all():
            return "a number is not finite"
        return None


def _score_levels(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most 256 levels, float32 and rising, and the number of each score's level, uint8."""
    levels, numbers = np.unique(scores.astype(np.float32), return_inverse=True)
    if len(levels) <= _LEVELS:
        return levels, numbers.astype(np.uint8)
    logs = np.log(scores)
    low, high = float(logs.min()), float(logs.max())
    codes = np.rint((logs - low) / (high - low) * (_LEVELS - 1)).astype(np.uint8)
    return np.exp(np.linspace(low, high, _LEVELS)).astype(np.float32), codes


def best_of_matrix(matrix: Any, most: int) -> NeighborTable:
    """Keep the `most` largest positive entries of each row of a square SciPy CSR matrix, the diagonal left out."""
    coo = matrix.tocoo()
    kept = (coo.row != coo.col) & (coo.data > 0)
    return best_of_links(coo.row[kept], coo.col[kept], coo.data[kept], matrix.shape[0], most)


def best_of_links(rows: np.ndarray, ids: np.ndarray, scores: np.ndarray, n_items: int, most: int) -> NeighborTable:
    """Make a table of links in any order; of each row the `most` with the highest score stay, ties by row number."""
    order = np.lexsort((ids, -scores, rows))
    rows, ids, scores = rows[order], ids[order], scores[order]
    starts = np.searchsorted(rows, np.arange(n_items + 1))
    kept = np.arange(len(rows)) - starts[rows] < most
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=n_items))]).astype(np.int64)
    return NeighborTable(offsets, ids[kept].astype(np.int32), scores[kept].astype(np.float32))


def stacked(parts: Sequence[NeighborTable]) -> NeighborTable:
    """Put tables of consecutive blocks of items one after the other."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return NeighborTable(
        offsets, np.concatenate([part.ids for part in parts]), np.concatenate([part.scores for part in parts])
    )


def save_tables(folder: Path, tables: Mapping[str, NeighborTable]) -> None:
    """Write each table into a folder of its name."""
    for name, table in tables.items():
        table.save(folder / name)


def load_tables(folder: Path) -> dict[str, NeighborTable]:
    """Read every table below a folder, by name."""
    return {path.name: NeighborTable.load(path) for path in sorted(folder.iterdir()) if path.is_dir()}
