"""The seam of dense retrieval: a vector to the items nearest to it, with exact scores.

`ExactVectorIndex` compares all items; `FastScanVectorIndex` compares product codes, which fit the cache of a processor
where the vectors do not, and scores the best of them exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.dense import DenseIndex, ItemVectors
from pipelines.retrieval.product_codes import ProductCodes, build_codes

FAST_SCAN_FROM = 16_384
"""Items from which on product codes are worth their error: below, all items take less than half a millisecond."""
CODES_VERSION = 3
"""Another number where `build_fast_scan` makes other codes of the same bundle: what is kept of before is not read."""
Asker = Literal["user", "query"]
"""Whose vector it is; an item that others are like asks as a query does."""
ASKERS: tuple[Asker, ...] = ("user", "query")
_DIMENSIONS_PER_CODE: Mapping[Asker, int] = {"user": 6, "query": 3}
_LEAST_CODES = 64
"""Codes of an item at least: the vectors of users differ in fewer ways than those of queries."""
_FEW = 2_048
"""Allowed items that are simply all scored."""
_LEAST_WANTED, _PER_WANTED, _WIDER = 100, 4, 3
"""Items wanted at least; items looked at for each that is wanted, and how many times more where that is too few."""
_DEVIATIONS = 1.75
"""Standard deviations of the error of the codes that an item may be better than they say."""
_MOST_LOOKED_AT = 8_192
"""Items taken from the codes at most; where a filter needs more, all items are compared."""
_SLACK = 100
"""Items scored exactly beyond those wanted, where all items are compared in int8."""


class VectorIndex(Protocol):
    """Finds the items nearest to a vector."""

    @property
    def problem(self) -> str | None:
        """Why something else answers in its place at the moment; None where it answers itself."""
        ...

    def nearest(
        self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None, *, asker: Asker = "query"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest items and their cosines, best first, ties in row order.

        Args:
            vector: float32 `(dim,)`, L2 norm 1.
            k: Items wanted; fewer come back where fewer are allowed.
            allowed: bool `(n_items,)`; None allows all.
            asker: Whose vector it is; an index may know better where to look.

        Returns:
            int64 `(<=k,)` and float32 `(<=k,)`.
        """
        ...


@dataclass(frozen=True)
class ExactVectorIndex:
    """Compares all items in int8 and scores the best exactly."""

    index: DenseIndex
    vectors: ItemVectors

    @property
    def problem(self) -> None:
        """See `VectorIndex.problem`: in this process nothing is ever down."""
        return None

    def nearest(
        self,
        vector: np.ndarray,
        k: int,
        allowed: np.ndarray | None = None,
        *,
        asker: Asker = "query",  # noqa: ARG002 - all items are compared, whoever asks
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`."""
        if allowed is not None and np.count_nonzero(allowed) <= _FEW:
            return _best(self.vectors, np.flatnonzero(allowed), vector, k)
        rows = top_rows(self.index.scores(vector), 2 * k + _SLACK, allowed)
        return _best(self.vectors, np.sort(rows), vector, k)


@dataclass(frozen=True)
class FastScanVectorIndex:
    """Compares product codes; asks all items where a filter leaves too few of those that it finds."""

    codes: Mapping[Asker, ProductCodes]
    """What `build_fast_scan` gave."""
    vectors: ItemVectors
    exact: VectorIndex
    """What answers where the codes do not do."""

    @property
    def problem(self) -> None:
        """See `VectorIndex.problem`: in this process nothing is ever down."""
        return None

    def nearest(
        self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None, *, asker: Asker = "query"
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`; of the nearest 100 six in a thousand are missed at most on the default data.

        How far the codes are off is seen where they are scored exactly: where an item behind the last one that was
        looked at may be among the best, more are looked at, and all items where that does not do.
        """
        codes, n = self.codes[asker], len(self.vectors)
        left = n if allowed is None else int(np.count_nonzero(allowed))
        wanted = min(max(k, _LEAST_WANTED), left)
        looked_at = -(-_PER_WANTED * wanted * n // max(left, 1))
        while left > _FEW and looked_at <= _MOST_LOOKED_AT:
            rows, rough = codes.nearest(vector, looked_at)
            last_seen = rough[-1]
            if allowed is not None:
                kept = allowed[rows]
                rows, rough = rows[kept], rough[kept]
            if len(rows) >= wanted:
                scores = self.vectors.products(rows, vector)
                behind = last_seen + _most(scores - rough)
                last = np.partition(scores, -wanted)[-wanted]
                if behind < last:
                    near = np.flatnonzero(scores >= last)
                    best = near[np.lexsort((rows[near], -scores[near]))[:k]]
                    return rows[best], scores[best]
            looked_at *= _WIDER
        return self.exact.nearest(vector, k, allowed, asker=asker)


def _most(errors: np.ndarray) -> float:
    """Return how far off scores of codes are where they are far off; `np.std` alone takes longer than all of this."""
    mean = np.add.reduce(errors) / len(errors)
    spread = errors - mean
    return float(mean + _DEVIATIONS * np.sqrt(spread @ spread / len(errors)))


@dataclass(frozen=True)
class GrownVectorIndex:
    """An index with items behind its own, which are all scored."""

    index: VectorIndex
    n_indexed: int
    vectors: ItemVectors
    """Those of the index, and the others behind them."""

    @property
    def problem(self) -> str | None:
        """See `VectorIndex.problem`."""
        return self.index.problem

    def nearest(
        self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None, *, asker: Asker = "query"
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`."""
        rows, scores = self.index.nearest(
            vector, k, None if allowed is None else allowed[: self.n_indexed], asker=asker
        )
        behind = np.arange(self.n_indexed, len(self.vectors))
        if allowed is not None:
            behind = behind[allowed[self.n_indexed :]]
        rows, scores = np.append(rows, behind), np.append(scores, self.vectors.products(behind, vector))
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]


def _best(vectors: ItemVectors, rows: np.ndarray, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `k` of some rows, rising, by their exact scores."""
    scores = vectors.products(rows, vector)
    best = top_rows(scores, k)
    return rows[best], scores[best]


def build_fast_scan(vectors: ItemVectors, typical: Mapping[Asker, np.ndarray]) -> dict[Asker, ProductCodes]:
    """Return product codes of the vectors for each asker.

    Args:
        vectors: The items.
        typical: What each is likely to ask, float32 `(n, dim)`; see `typical_vectors`.
    """
    dim = vectors.shape[1]
    return {
        asker: build_codes(vectors, typical[asker], min(max(dim // _DIMENSIONS_PER_CODE[asker], _LEAST_CODES), dim))
        for asker in ASKERS
    }
