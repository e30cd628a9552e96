"""A bundle as cases: what it would serve, and its user tower alone."""

from collections.abc import Sequence

import numpy as np

from pipelines.evaluation.rows import EvaluationRows
from pipelines.inference.bundle import Bundle
from pipelines.ranking.fusion import RecommendationParts, recommendation_parts, weighted_mean
from pipelines.ranking.learned import scores_of_parts
from pipelines.ranking.search_ranker import behind, ranked_search
from pipelines.retrieval.dense import dense_scores

_NOT_IN_BUNDLE = -2.0
"""Below every score of a bundle: an item that the bundle does not have ranks last."""


class BundleScorer:
    """Full rankings by the functions that the service answers with; both cases share the work of one block.

    Args:
        bundle: The open bundle.
        item_ids: The catalogue of the evaluation, which may have other items than the bundle.
    """

    def __init__(self, bundle: Bundle, item_ids: Sequence[str]) -> None:
        self._bundle = bundle
        self._places = None if bundle.item_ids == list(item_ids) else bundle.rows_of(item_ids)
        self._block: EvaluationRows | None = None
        self._parts: RecommendationParts | None = None

    def fused_scores(self, rows: EvaluationRows) -> np.ndarray:
        """Return what `/recommend` ranks by, float32 `(n_rows, n_items)`; a stranger gets popular items."""
        return self._in_catalog(scores_of_parts(self._bundle, rows.features, rows.now_s, self._parts_of(rows)))

    def dense_scores(self, rows: EvaluationRows) -> np.ndarray:
        """Return the cosine of user and item alone, below 0 as 0, float32 `(n_rows, n_items)`."""
        return self._in_catalog(self._parts_of(rows).scores["dense"].copy())

    def search_scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return what `/search` ranks by when nobody is known, float32 `(n_queries, n_items)`."""
        weights = self._bundle.preprocessing.fusion.search.model_dump()
        parts = {"dense": self._dense_search(queries), "lexical": self._lexical_search(queries)}
        scores = weighted_mean(parts, weights)
        if self._bundle.search_ranker is not None:
            vectors = self._bundle.encode_queries(queries)
            for place, query in enumerate(queries):
                found = ranked_search(self._bundle, query, vectors[place], parts["dense"][place])
                scores[place] = behind(scores[place], found.rows, found.scores)
        return self._in_catalog(scores)

    def dense_search_scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return the cosine of query and item alone, below 0 as 0, float32 `(n_queries, n_items)`."""
        return self._in_catalog(self._dense_search(queries))

    def lexical_search_scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return BM25 alone, relative to the best item, float32 `(n_queries, n_items)`."""
        return self._in_catalog(self._lexical_search(queries))

    def _dense_search(self, queries: Sequence[str]) -> np.ndarray:
        return np.maximum(dense_scores(self._bundle.encode_queries(queries), self._bundle.item_vectors), 0.0)

    def _lexical_search(self, queries: Sequence[str]) -> np.ndarray:
        scores = np.stack([self._bundle.lexical.scores(query) for query in queries])
        best = scores.max(axis=1, keepdims=True, initial=0.0)
        relative: np.ndarray = np.divide(scores, best, out=np.zeros_like(scores), where=best > 0)
        return relative

    def _parts_of(self, rows: EvaluationRows) -> RecommendationParts:
        if self._parts is None or self._block is not rows:
            self._parts = None  # free the block before, then fill the next
            self._parts = recommendation_parts(self._bundle, rows.features, rows.now_s)
            self._block = rows
        return self._parts

    def _in_catalog(self, scores: np.ndarray) -> np.ndarray:
        if self._places is None:
            return scores
        moved: np.ndarray = scores[:, np.maximum(self._places, 0)]
        moved[:, self._places < 0] = _NOT_IN_BUNDLE
        return moved
