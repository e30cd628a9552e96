"""What retrieval sees of a catalogue in which items changed: the arrays of a bundle as they are, and a few rows beside.

A changed or new item has a *slot*, a place among the rows beside. `slots` says which rows have one. Nothing of the
bundle is copied or written to; what is beside is compared with a query exactly.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.retrieval.dense import DenseIndex, ItemVectors
from pipelines.retrieval.trends import DayTrends, ItemTrends
from pipelines.retrieval.vector_index import Asker, VectorIndex

NO_SLOT = -1
_MORE = 16
"""Items asked for beyond those wanted, because some of them may have changed."""


class PatchedRows:
    """Rows of an array, some of them replaced and others behind; read by number."""

    def __init__(self, base: Any, slots: np.ndarray, patches: np.ndarray) -> None:
        """Take `(m, …)` rows, int32 `(n,)` slots of all `n ≥ m` rows (−1 for none), and `(k, …)` rows by slot."""
        self._base = base
        self._last = len(base) - 1
        self._slots = slots
        self._patches = patches
        self.shape: tuple[int, ...] = (len(slots), *patches.shape[1:])

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows by number, slice or array of any shape: `(*shape, …)`."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        slots = self._slots[rows]
        out: np.ndarray = self._base[np.minimum(rows, self._last)]
        if slots.ndim == 0:
            return out if slots < 0 else self._patches[slots].copy()
        patched = slots >= 0
        if patched.any():
            out[patched] = self._patches[slots[patched]]
        return out


class PatchedVectors(ItemVectors):
    """Vectors in int8, with others in float32 in place of some and behind them."""

    def __init__(self, base: ItemVectors, slots: np.ndarray, vectors: np.ndarray, scales: np.ndarray) -> None:
        """Take what is in place and behind.

        Args:
            slots: int32 `(n,)`.
            vectors: By slot, float32 `(k, dim)`, each row L2 norm 1 or 0.
            scales: float32 `(n,)`, those of the base, 1 where there is a slot.
        """
        self._base = base
        self._rows = PatchedRows(base, slots, vectors)
        self._slots = slots
        self._vectors = vectors
        self.scales = scales

    @property
    def shape(self) -> tuple[int, int]:
        """Number of vectors, and their width."""
        return len(self._slots), self._vectors.shape[1]

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows by number, slice or array of any shape: float32 `(*shape, dim)`."""
        return self._rows[rows]

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 `(c, dim)`: the rows asked for, int64 `(c,)`, each divided by its scale."""
        codes = self._base.codes_of(np.minimum(rows, len(self._base) - 1))
        slots = self._slots[rows]
        patched = slots >= 0
        if patched.any():
            codes[patched] = self._vectors[slots[patched]]
        return codes

    def grown(self, vectors: np.ndarray) -> ItemVectors:
        """Return these vectors and others, float `(k, dim)`, behind them, all in int8."""
        return ItemVectors.quantized(np.concatenate([np.asarray(self), vectors]))


class PatchedDenseIndex(DenseIndex):
    """An opened index with some vectors in place of its own and behind them, which are scored exactly."""

    def __init__(self, index: DenseIndex, n_items: int, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Take rows, int64 `(k,)`, and their vectors, float32 `(k, dim)`."""
        self._index = index
        self._n_items = n_items
        self._patched = rows
        self._vectors = vectors

    @property
    def n_items(self) -> int:
        """Number of vectors, those behind the index included."""
        return self._n_items

    def scores(self, vector: np.ndarray) -> np.ndarray:
        """Return cosines to every item, float32 `(n_items,)`; see `DenseIndex.scores`."""
        own = self._index.scores(vector)
        scores = own
        if self._n_items > len(own):
            scores = np.zeros(self._n_items, np.float32)
            scores[: len(own)] = own
        scores[self._patched] = self._vectors @ vector
        return scores


class PatchedVectorIndex:
    """An index with some vectors in place of its own and behind them, which are all scored."""

    def __init__(
        self, index: VectorIndex, n_indexed: int, slots: np.ndarray, rows: np.ndarray, vectors: np.ndarray
    ) -> None:
        """Take slots, int32 `(n_items,)`, and by slot the rows, int64 `(k,)`, and vectors, float32 `(k, dim)`."""
        self._index = index
        self._n_indexed = n_indexed
        self._slots = slots
        self._patched = rows
        self._vectors = vectors

    @property
    def problem(self) -> str | None:
        """See `VectorIndex.problem`."""
        return self._index.problem

    def nearest(
        self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None, *, asker: Asker = "query"
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`."""
        rows, scores = self._unchanged(vector, k, None if allowed is None else allowed[: self._n_indexed], asker)
        products = self._vectors @ vector
        patched = self._patched
        if allowed is not None:
            kept = allowed[patched]
            patched, products = patched[kept], products[kept]
        if len(products) > k:
            kept = np.argpartition(-products, k)[: k + 1]
            kept = np.flatnonzero(products >= products[kept].min())
            patched, products = patched[kept], products[kept]
        rows, scores = np.append(rows, patched), np.append(scores, products)
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]

    def _unchanged(
        self, vector: np.ndarray, k: int, allowed: np.ndarray | None, asker: Asker
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of what did not change; what did is in the index as it was before."""
        wanted = k + _MORE
        while True:
            rows, scores = self._index.nearest(vector, wanted, allowed, asker=asker)
            kept = self._slots[rows] < 0
            if np.count_nonzero(kept) >= k or len(rows) < wanted:
                return rows[kept], scores[kept]
            wanted *= 2


class GrownTrends(ItemTrends):
    """Trends with items behind, of which nothing is known; the days are those of the trends they grew from."""

    @classmethod
    def of(cls, trends: ItemTrends, first_day: np.ndarray, padded: Callable[[np.ndarray], np.ndarray]) -> "GrownTrends":
        """Take first days, int32 `(n_items,)`, and what pads float32 `(m, f)` features of a day to all items."""
        values = {name: getattr(trends, name) for name in cls.__dataclass_fields__}
        grown = cls(**(values | {"n_items": len(first_day), "first_day": first_day}))
        grown.__dict__["_grew_from"] = (trends, padded)  # a frozen value; these are no fields of it
        return grown

    def of_day(self, now_s: float) -> DayTrends:
        """Return what is known on the day of a moment, of all items; see `ItemTrends.of_day`."""
        trends, padded = self.__dict__["_grew_from"]
        known = trends.of_day(now_s)
        return DayTrends(padded(known.features)[: self.n_items], known.popular)
