"""Product codes of four bits: what fits the cache of a processor where the vectors do not.

Each code is a direction of space. Which ones depends on who asks: those that lose least of the products of the items
with typical questions, so that users, whose vectors differ in few ways, need half as many as queries.

Source: André, Kermarrec and Le Scouarnec, Accelerated nearest neighbor search with Quick ADC (2017), in faiss.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pipelines.errors import DataError
from pipelines.retrieval.dense import ItemVectors

Name = TypeVar("Name", bound=str)
_BITS = 4
_TRAINED_ON = 20_000
_SCANNED_AT_ONCE = 128
"""Items that faiss compares at once: its own choice of 32 takes a fifth longer."""
_BLOCK = 8_192
_ANY_QUESTION = 0.05
"""Share of a question that may point anywhere: nothing is blind to what no typical question asks."""


@dataclass(frozen=True)
class ProductCodes:
    """Codes of all items, made for one kind of question."""

    turn: np.ndarray
    """float32 `(count, dim)`: a question becomes `turn @ question`, whose products with the codes are compared."""
    codes: Any
    """The faiss index over the items, turned in their own way."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of items, and the width of their vectors."""
        return int(self.codes.ntotal), self.turn.shape[1]

    def nearest(self, vector: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return about the nearest items, best first: rows, int64 `(<=most,)`, and scores, float32 `(<=most,)`.

        The scores are off by a constant and by the error of the codes.
        """
        scores, rows = self.codes.search((self.turn @ vector)[None], most)
        found = most if rows[0, -1] >= 0 else int(np.count_nonzero(rows[0] >= 0))
        return rows[0, :found], scores[0, :found]


def build_codes(vectors: ItemVectors, typical: np.ndarray, count: int) -> ProductCodes:
    """Return codes of `count` directions; nothing is left to chance: the same vectors give the same codes.

    Args:
        vectors: The items.
        typical: float32 `(n, dim)`, questions of the kind that will be asked.
        count: Directions, at most `dim`.
    """
    import faiss

    n = len(vectors)
    sample = vectors[np.unique(np.linspace(0, n - 1, min(n, _TRAINED_ON)).astype(int))]
    of_questions, of_items = _directions(typical, sample, count)
    codes = faiss.IndexPQFastScan(count, count, _BITS, faiss.METRIC_INNER_PRODUCT, _SCANNED_AT_ONCE)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        codes.train(sample @ of_items.T)
        for start in range(0, n, _BLOCK):
            codes.add(vectors[start : start + _BLOCK] @ of_items.T)
    finally:
        faiss.omp_set_num_threads(threads)
    return ProductCodes(of_questions, codes)


def _directions(typical: np.ndarray, items: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what turns questions and what turns items, float32 `(count, dim)` each, so that products stay.

    Of all pairs of as many rows these lose least: E[(q·x − (A q)·(B x))²] is smallest where A and B hold the first
    singular vectors of the product of the roots of both second moments. Shared evenly between both sides and turned
    at random, every direction has the same weight, so that a code each is well spent.

    Args:
        typical: Questions q, float32 `(n, dim)`.
        items: Items x, float32 `(m, dim)`; what is common to all of them orders nothing and is left out.
    """
    dim = items.shape[1]
    questions = typical.T.astype(np.float64) @ typical / len(typical)
    anywhere = np.trace(questions) / dim * np.eye(dim)
    root_of_questions = _root((1 - _ANY_QUESTION) * questions + _ANY_QUESTION * anywhere)
    root_of_items = _root(np.cov(items, rowvar=False))
    left, weights, right = np.linalg.svd(root_of_questions @ root_of_items)
    turned, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((count, count)))
    shares = turned / np.sqrt(np.maximum(weights[:count], 1e-9 * weights[0]))
    of_questions, of_items = shares @ right[:count] @ root_of_items, shares @ left[:, :count].T @ root_of_questions
    return np.ascontiguousarray(of_questions, np.float32), np.ascontiguousarray(of_items, np.float32)


def _root(moments: np.ndarray) -> np.ndarray:
    """Return the square root of a symmetric matrix without negative eigenvalues."""
    values, base = np.linalg.eigh(moments)
    root: np.ndarray = (base * np.sqrt(np.maximum(values, 0))) @ base.T
    return root


def packed(codes: Mapping[Name, ProductCodes]) -> bytes:
    """Return codes by name as bytes."""
    import faiss

    arrays: dict[str, np.ndarray] = {}
    for name, one in codes.items():
        arrays |= {f"{name}_turn": one.turn, f"{name}_codes": faiss.serialize_index(one.codes)}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(content: bytes, names: Sequence[Name], shape: tuple[int, int]) -> dict[Name, ProductCodes]:
    """Return what `packed` gave.

    Args:
        content: The bytes.
        names: What must be there.
        shape: Number and width of the vectors that the codes have to be of.

    Raises:
        DataError: it is something else.
    """
    import faiss

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            codes = {
                name: ProductCodes(arrays[f"{name}_turn"], faiss.deserialize_index(arrays[f"{name}_codes"]))
                for name in names
            }
    except (EOFError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(f"These are no product codes ({str(error).splitlines()[0]}).") from error
    for one in codes.values():
        if one.shape != shape:
            raise DataError(
                f"The index is of {one.shape[0]:,} vectors of {one.shape[1]} dimensions, {shape} are needed."
            )
    return codes
