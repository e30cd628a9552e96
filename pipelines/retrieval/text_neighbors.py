"""The item-to-item table of text: who shares rare words."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.retrieval.lexical import tokens_of
from pipelines.retrieval.neighbors import NeighborTable, best_of_links, stacked

_BLOCK = 1_024


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
