"""Smaller item vectors: what the first look at the catalogue may cost, where the best candidates are scored again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.dense import ItemVectors

FirstLook = Callable[[np.ndarray, int], np.ndarray]
"""Takes a vector, float32 `(dim,)`, and gives the rows of `k` candidates, int64."""
_BITS = 4


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
        shorten: Turns float32 `(1, dim)` into float32 `(1, d)`.
    """
    codes = ItemVectors.quantized(short)

    def candidates(vector: np.ndarray, k: int) -> np.ndarray:
        return top_rows(codes.scores(shorten(vector[None]))[0], k)

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

    def candidates(vector: np.ndarray, k: int) -> np.ndarray:
        _, rows = index.search(vector[None], min(k, n))
        found: np.ndarray = rows[0]
        return found[found >= 0]

    return ItemCodes(name, parts * _BITS / 8, candidates)


def rescored(
    codes: ItemCodes, exact: ItemVectors, vectors: np.ndarray, candidates: int, k: int = 10
) -> list[np.ndarray]:
    """Return the rows of the best `k` items of each vector, best first: candidates by the codes, then exact scores."""
    found = []
    for vector in vectors:
        rows = np.sort(codes.candidates(vector, candidates))
        found.append(rows[top_rows(exact[rows] @ vector, k)])
    return found


def unscored(codes: ItemCodes, vectors: np.ndarray, k: int = 10) -> Sequence[np.ndarray]:
    """Return the rows of the best `k` items of each vector by the codes alone, best first."""
    return [codes.candidates(vector, k) for vector in vectors]
