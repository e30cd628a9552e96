"""Item-to-item tables of text: who shares rare words, and whose text vectors are near."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.retrieval.lexical import tokens_of
from pipelines.retrieval.neighbors import NeighborTable, best_of_links, stacked

_BLOCK = 1_024
_PROBED_CELLS = 12


def build_lexical_neighbors(
    texts: Sequence[str], *, neighbors: int = 50, max_items_per_term: int = 1_000
) -> NeighborTable:
    """Find for each item those that share words and pairs of words with it: the cosine of TF-IDF vectors.

    Args:
        max_items_per_term: Words of more items than this tell little, and the work grows with their square.
    """
    matrix = _tfidf(texts, max_items_per_term)
    parts = []
    for start in range(0, len(texts), _BLOCK):
        block = (matrix[start : start + _BLOCK] @ matrix.T).tocoo()
        kept = (block.row + start != block.col) & (block.data > 0)
        size = min(_BLOCK, len(texts) - start)
        parts.append(best_of_links(block.row[kept], block.col[kept], block.data[kept], size, neighbors))
    return stacked(parts)


def build_vector_neighbors(
    vectors: np.ndarray, *, neighbors: int = 50, power: float = 4.0, exact_items: int = 20_000
) -> NeighborTable:
    """Find for each item those with the nearest vectors; score = cosine^power, so that the near ones stand out.

    Args:
        vectors: float32 `(n_items, dim)`, each row L2 norm 1.
        exact_items: Larger catalogues are searched in the nearest cells of a clustering: every pair would take minutes.
    """
    n = len(vectors)
    most = min(neighbors, n - 1)
    if most < 1:
        return NeighborTable.empty(n)
    ids, cosines = _exact(vectors, most) if n <= exact_items else _in_cells(vectors, most)
    scores = np.maximum(cosines, 0).ravel() ** np.float32(power)
    kept = (scores > 0) & (ids.ravel() >= 0)
    return best_of_links(np.repeat(np.arange(n), most)[kept], ids.ravel()[kept], scores[kept], n, most)


def _exact(vectors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest others of each item, int64 `(n, most)`, and their cosines, float32, in no order."""
    ids, found = [], []
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, own + start] = -1.0
        best = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        ids.append(best)
        found.append(np.take_along_axis(cosines, best, axis=1))
    return np.concatenate(ids), np.concatenate(found)


def _in_cells(vectors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return about the nearest others of each item, int64 `(n, most)`, −1 where none was found, and their cosines.

    Source: inverted file over k-means cells (https://arxiv.org/abs/2401.08281).
    """
    import faiss

    n, dim = vectors.shape
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(quantizer, dim, int(2 * np.sqrt(n)), faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter = 13, 8
    index.train(vectors[np.random.default_rng(13).permutation(n)[: 64 * index.nlist]])
    index.add(vectors)
    index.nprobe = _PROBED_CELLS
    cosines, ids = index.search(vectors, most + 1)
    ids = np.where(ids == np.arange(n)[:, None], -1, ids)
    order = np.argsort(ids < 0, axis=1, kind="stable")[:, :most]  # the item itself goes last, and is cut off
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def _tfidf(texts: Sequence[str], max_items_per_term: int) -> Any:
    """Return float32 CSR `(n, n_terms)`, each row L2 norm 1 or empty: (1 + ln tf) · (1 + ln((1 + n) / (1 + df)))."""
    from scipy import sparse

    vocabulary: dict[str, int] = {}
    rows, columns = [], []
    for row, text in enumerate(texts):
        words = tokens_of(text)
        terms = [*words, *(f"{left} {right}" for left, right in pairwise(words))]
        rows.append(np.full(len(terms), row))
        columns.append(np.fromiter((vocabulary.setdefault(term, len(vocabulary)) for term in terms), np.int64))
    shape = (len(texts), max(len(vocabulary), 1))
    flat_rows, flat_columns = np.concatenate([*rows, []]).astype(int), np.concatenate([*columns, []]).astype(int)
    counts: Any = sparse.csr_matrix((np.ones(len(flat_rows), np.float32), (flat_rows, flat_columns)), shape=shape)
    counts.sum_duplicates()
    frequency = np.bincount(counts.indices, minlength=shape[1])
    useful = (frequency >= 2) & (frequency <= max_items_per_term)
    weights = np.where(useful, 1 + np.log((1 + len(texts)) / (1 + frequency)), 0).astype(np.float32)
    counts.data = (1 + np.log(counts.data)) * weights[counts.indices]
    counts.eliminate_zeros()
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0).astype(np.float32)
    return (sparse.diags(inverse) @ counts).tocsr()
