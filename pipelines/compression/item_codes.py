"""Smaller item vectors: what the first look at the catalogue may cost, where the best candidates are scored again."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.dense import ItemVectors

FirstLook = Callable[[np.ndarray, int], np.ndarray]
"""Takes vectors, float32 `(b, dim)`, and gives the rows of `k` candidates of each, best first, int64 `(b, k)`."""
_BITS = 4
_BLOCK = 64
"""Vectors that are compared at a time."""


@dataclass(frozen=True)
class ItemCodes:
    """One way to keep item vectors for the first look."""

    name: str
    bytes_per_item: float
    candidates: FirstLook


def prefix_codes(name: str, short: np.ndarray, shorten: Callable[[np.ndarray], np.ndarray]) -> ItemCodes:
    """Look at prefixes in int8.

    Args:
        short: float32 `(n_items, d)`, each row L2 norm 1.
        shorten: Turns float32 `(b, dim)` into float32 `(b, d)`.
    """
    codes = ItemVectors.quantized(short)

    def candidates(vectors: np.ndarray, k: int) -> np.ndarray:
        found = []
        for start in range(0, len(vectors), _BLOCK):
            found += [top_rows(scores, k) for scores in codes.scores(shorten(vectors[start : start + _BLOCK]))]
        return np.stack(found)

    return ItemCodes(name, codes.codes.shape[1] + 4, candidates)


def product_codes(name: str, item_vectors: np.ndarray, parts: int) -> ItemCodes:
    """Look at product codes: `parts` numbers of four bits, compared by tables that fit the registers.

    Source: Jégou, Douze and Schmid, Product quantization for nearest neighbor search (2011); the layout is faiss'
    fast scan.

    Args:
        parts: Must divide the width of the vectors.
    """
    import faiss

    n, dim = item_vectors.shape
    index = faiss.IndexPQFastScan(dim, parts, _BITS, faiss.METRIC_INNER_PRODUCT)
    index.train(item_vectors)
    index.add(item_vectors)

    def candidates(vectors: np.ndarray, k: int) -> np.ndarray:
        _, rows = index.search(vectors, min(k, n))
        found: np.ndarray = rows
        return found

    return ItemCodes(name, parts * _BITS / 8, candidates)


def rescored(
    codes: ItemCodes, exact: ItemVectors, vectors: np.ndarray, candidates: int, k: int = 10
) -> list[np.ndarray]:
    """Return the rows of the best `k` items of each vector, best first: candidates by the codes, then exact scores."""
    found = []
    for vector, rows in zip(vectors, np.sort(codes.candidates(vectors, candidates), axis=1), strict=True):
        known = rows[rows >= 0]  # a product code may find fewer
        found.append(known[top_rows(exact[known] @ vector, k)])
    return found


def unscored(codes: ItemCodes, vectors: np.ndarray, k: int = 10) -> list[np.ndarray]:
    """Return the rows of the best `k` items of each vector by the codes alone, best first."""
    return list(codes.candidates(vectors, k))
