"""The seam of dense retrieval: a vector to the items nearest to it, with exact scores.

`ExactVectorIndex` compares all items; `FastScanVectorIndex` compares product codes of four bits, which fit the cache of
a processor where the vectors do not, and scores the best of them exactly.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipelines.errors import DataError
from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.dense import DenseIndex, ItemVectors

FAST_SCAN_FROM = 16_384
"""Items from which on product codes are worth their error: below, all items take less than half a millisecond."""
CODES_VERSION = 2
"""Another number where `build_fast_scan` makes other codes of the same vectors: what is kept of before is not read."""
_BITS = 4
_LEAST_DIRECTIONS = 64
_TRAINED_ON = 20_000
_BLOCK = 8_192
_FEW = 2_048
"""Allowed items that are simply all scored."""
_LEAST_WANTED, _PER_WANTED, _WIDER = 100, 5, 3
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

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest items and their cosines, best first, ties in row order.

        Args:
            vector: float32 `(dim,)`, L2 norm 1.
            k: Items wanted; fewer come back where fewer are allowed.
            allowed: bool `(n_items,)`; None allows all.

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

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`."""
        if allowed is not None and np.count_nonzero(allowed) <= _FEW:
            return _best(self.vectors, np.flatnonzero(allowed), vector, k)
        rows = top_rows(self.index.scores(vector), 2 * k + _SLACK, allowed)
        return _best(self.vectors, np.sort(rows), vector, k)


@dataclass(frozen=True)
class FastScanVectorIndex:
    """Compares product codes; asks all items where a filter leaves too few of those that it finds.

    Source: André, Kermarrec and Le Scouarnec, Accelerated nearest neighbor search with Quick ADC (2017), in faiss.
    """

    codes: Any
    """What `build_fast_scan` gave."""
    vectors: ItemVectors
    exact: VectorIndex
    """What answers where the codes do not do."""

    @property
    def problem(self) -> None:
        """See `VectorIndex.problem`: in this process nothing is ever down."""
        return None

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`; of the nearest 100 six in a thousand are missed at most on the default data.

        How far the codes are off is seen where they are scored exactly: where an item behind the last one that was
        looked at may be among the best, more are looked at, and all items where that does not do.
        """
        n = len(self.vectors)
        left = n if allowed is None else int(np.count_nonzero(allowed))
        wanted = min(max(k, _LEAST_WANTED), left)
        looked_at = -(-_PER_WANTED * wanted * n // max(left, 1))
        while left > _FEW and looked_at <= _MOST_LOOKED_AT:
            found, numbers = self.codes.search(vector[None], looked_at)
            kept = numbers[0] >= 0 if allowed is None else (numbers[0] >= 0) & allowed[numbers[0]]
            rows, rough = numbers[0][kept], found[0][kept]
            if len(rows) >= wanted:
                scores = self.vectors.products(rows, vector)
                errors = scores - rough
                behind = found[0, -1] + errors.mean() + _DEVIATIONS * errors.std()
                last = np.partition(scores, -wanted)[-wanted]
                if behind < last:
                    near = np.flatnonzero(scores >= last)
                    best = near[np.lexsort((rows[near], -scores[near]))[:k]]
                    return rows[best], scores[best]
            looked_at *= _WIDER
        return self.exact.nearest(vector, k, allowed)


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

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`."""
        rows, scores = self.index.nearest(vector, k, None if allowed is None else allowed[: self.n_indexed])
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


def build_fast_scan(vectors: ItemVectors) -> Any:
    """Return a faiss index over the vectors: one number of four bits for each of a third of as many dimensions.

    These are the directions in which the items differ most, turned at random so that all are of much the same weight:
    on the default data the nearest 100 of a user are found to .999, where as many bits of the vectors as they are find
    .80. Nothing is left to chance: the same vectors give the same index. 92,000 items take two seconds.
    """
    import faiss

    n, dim = vectors.shape
    sample = vectors[np.unique(np.linspace(0, n - 1, min(n, _TRAINED_ON)).astype(int))]
    directions = _directions(sample, min(max(dim // 3, _LEAST_DIRECTIONS), dim))
    turn = faiss.LinearTransform(dim, len(directions), False)
    faiss.copy_array_to_vector(directions.ravel(), turn.A)
    turn.is_trained = True
    codes = faiss.IndexPreTransform(
        turn, faiss.IndexPQFastScan(len(directions), len(directions), _BITS, faiss.METRIC_INNER_PRODUCT)
    )
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        codes.train(sample)
        for start in range(0, n, _BLOCK):
            codes.add(vectors[start : start + _BLOCK])
    finally:
        faiss.omp_set_num_threads(threads)
    return codes


def _directions(sample: np.ndarray, count: int) -> np.ndarray:
    """Return a turned base of the space in which the sample varies most, float32 `(count, dim)`, rows orthonormal."""
    _, base = np.linalg.eigh(np.cov(sample, rowvar=False))
    turned, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((count, count)))
    return np.ascontiguousarray((base[:, ::-1][:, :count] @ turned).T, dtype=np.float32)


def packed(codes: Any) -> bytes:
    """Return an index of `build_fast_scan` as bytes."""
    import faiss

    return bytes(faiss.serialize_index(codes))


def unpacked(content: bytes, shape: tuple[int, int]) -> Any:
    """Return what `packed` gave.

    Args:
        shape: Number and width of the vectors that it has to be of.

    Raises:
        DataError: it is something else.
    """
    import faiss

    try:
        codes = faiss.deserialize_index(np.frombuffer(content, np.uint8))
    except RuntimeError as error:
        raise DataError(f"This is no index of faiss ({str(error).splitlines()[0]}).") from error
    if (codes.ntotal, codes.d) != shape:
        raise DataError(f"The index is of {codes.ntotal:,} vectors of {codes.d} dimensions, {shape} are needed.")
    return codes
