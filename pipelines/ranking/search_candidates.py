"""Candidates of a search and their features: one definition for training and for serving.

The best items by meaning (dense) and by words (lexical), and what each has in common with the query.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.inference.ranker_features import SEARCH_FEATURES
from pipelines.ranking.ordering import distinct_rows, top_rows
from pipelines.retrieval.dense import ItemVectors
from pipelines.retrieval.lexical import LexicalIndex, QueryWords

GENERATORS: tuple[str, ...] = ("dense", "lexical")
_FEATURES_OF = {
    "dense": tuple(name for name in SEARCH_FEATURES if name.startswith(("cosine", "dense", "near"))),
    "lexical": tuple(name for name in SEARCH_FEATURES if not name.startswith(("cosine", "dense", "near_best_dense"))),
}
"""What could not be computed without a generator: vectors, or words."""
_PLACE_SCALE = 10
"""Place at which a candidate counts half as much as the first."""
_CENTRAL = 10
"""Best candidates whose mean vector says what the query is about."""
_LEXICAL_SHARE = np.float32(0.5)
"""Weight of the lexical score beside the cosine where the two are fused without being learnt."""


@dataclass(frozen=True)
class SearchCandidates:
    """Candidates of one query."""

    rows: np.ndarray
    """int64 `(c,)`, rising."""
    features: np.ndarray
    """float32 `(c, len(SEARCH_FEATURES))`, finite."""
    found_by: np.ndarray
    """bool `(c, len(GENERATORS))`."""


def search_candidates(
    query: str,
    query_vector: np.ndarray,
    lexical: LexicalIndex,
    item_vectors: np.ndarray | ItemVectors,
    dense_scores: np.ndarray,
    *,
    allowed: np.ndarray | None = None,
    per_generator: int = 100,
) -> SearchCandidates:
    """Find the candidates of a query among all items, and what the ranker reads of them.

    Args:
        query_vector: float32 `(dim,)`, L2 norm 1.
        item_vectors: float32 `(n_items, dim)`, each row L2 norm 1, or the same in int8.
        dense_scores: float32 `(n_items,)`, cosines of the query with every item; those of the int8 index will do.
        allowed: bool `(n_items,)`; None allows all.
        per_generator: Candidates taken from each generator.
    """
    words = lexical.understood(query)
    nearest = top_rows(dense_scores, per_generator, allowed)
    by_words = matching_rows(scores := lexical.scores_of(words.numbers), per_generator, allowed)
    return described_candidates(words, query_vector, lexical, item_vectors, scores, nearest, by_words)


def described_candidates(
    words: QueryWords,
    query_vector: np.ndarray,
    lexical: LexicalIndex,
    item_vectors: np.ndarray | ItemVectors,
    lexical_scores: np.ndarray,
    nearest: np.ndarray,
    by_words: np.ndarray,
) -> SearchCandidates:
    """Describe what the generators found: what `search_candidates` gives.

    Args:
        words: What the query looks for.
        lexical_scores: float32 `(n_items,)`.
        nearest: int64 `(m,)`, rows of the best items by meaning.
        by_words: int64 `(m,)`, rows of the best items by words.
    """
    rows = distinct_rows(nearest, by_words)
    vectors = item_vectors[rows]
    columns = dict(_of_scores(vectors @ query_vector, lexical_scores[rows], vectors))
    columns.update(_of_words(words, rows, lexical, lexical_scores[rows]))
    features = np.zeros((len(rows), len(SEARCH_FEATURES)), np.float32)
    for place, name in enumerate(SEARCH_FEATURES):
        features[:, place] = columns.get(name, 0.0)
    found_by = np.zeros((len(rows), len(GENERATORS)), bool)
    for place, part in enumerate((nearest, by_words)):
        found_by[np.searchsorted(rows, part), place] = True
    return SearchCandidates(rows, features, found_by)


def matching_rows(lexical_scores: np.ndarray, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """Return the rows of the best `k` items that have a word of the query, int64 `(<=k,)`, best first."""
    return top_rows(lexical_scores, k, allowed, above=0.0)


def without_generator(found: SearchCandidates, generator: str) -> SearchCandidates:
    """Return the candidates as if a generator were not there: its features are 0, what only it found is gone."""
    others = [place for place, name in enumerate(GENERATORS) if name != generator]
    kept = found.found_by[:, others].any(axis=1)
    features = found.features[kept]
    features[:, [SEARCH_FEATURES.index(name) for name in _FEATURES_OF[generator]]] = 0.0
    return SearchCandidates(found.rows[kept], features, found.found_by[kept])


def _of_scores(
    cosines: np.ndarray, lexical: np.ndarray, vectors: np.ndarray
) -> Iterator[tuple[str, np.ndarray | np.float32]]:
    """Yield what the scores say, and how near a candidate is to the best ones: what they share is what was meant.

    Source: the nearness is pseudo-relevance feedback, as in Rocchio, Relevance feedback (1971).
    """
    best_cosine, best_lexical = cosines.max(initial=-1.0), lexical.max(initial=0.0)
    relative = lexical / best_lexical if best_lexical > 0 else lexical
    yield "cosine", cosines
    yield "cosine_behind_best", cosines - best_cosine
    yield "cosine_of_best", np.float32(best_cosine)
    yield "dense_place", _place(cosines)
    yield "lexical_of_best", relative
    yield "lexical_best", np.log1p(best_lexical)
    yield "lexical_place", _place(lexical)
    yield "near_best_dense", _nearness(cosines, vectors)
    yield "near_best_lexical", _nearness(lexical, vectors)
    yield "near_best_fused", _nearness(cosines + _LEXICAL_SHARE * relative, vectors)


def _place(scores: np.ndarray) -> np.ndarray:
    places = np.empty(len(scores), np.float32)
    places[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return 1 / (1 + places / _PLACE_SCALE)


def _nearness(scores: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of each candidate with the mean of the best ones, float32 `(c,)`."""
    center = vectors[np.argsort(-scores, kind="stable")[:_CENTRAL]].sum(axis=0)
    nearness: np.ndarray = vectors @ (center / max(float(np.linalg.norm(center)), 1e-9))
    return nearness


def _of_words(
    asked: QueryWords, rows: np.ndarray, lexical: LexicalIndex, scores: np.ndarray
) -> Iterator[tuple[str, np.ndarray | np.float32]]:
    """Yield which words of the query a candidate's text has, where, and in which order."""
    words = np.array(list(dict.fromkeys(asked.numbers)), np.int64)
    texts = lexical.item_words[rows]
    lengths = (texts >= 0).sum(axis=1)
    yield "title_words", np.log1p(lengths)
    yield "query_words", np.log1p(np.float32(len(words)))
    yield "unknown_words", np.float32(asked.unknown_share)
    if len(words) == 0 or texts.shape[1] == 0:
        return
    same = texts[:, :, None] == words  # (c, places, words)
    found, here = same.any(axis=1), same.any(axis=2)
    idf, digits = lexical.idf[words], lexical.is_number[words]
    yield "lexical_of_possible", scores / idf.sum()
    yield "words_found", found.mean(axis=1)
    yield "idf_found", found @ idf / idf.sum()
    yield "rarest_missing", np.where(found, 0, idf).max(axis=1) / idf.max()
    if len(named := np.flatnonzero(~digits)):
        yield "first_word_found", found[:, named[0]]
        yield "last_word_found", found[:, named[-1]]
    if digits.any():
        yield "numbers_found", found[:, digits].mean(axis=1)
        yield "numbers", np.float32(digits.sum())
    if len(words) > 1:
        yield "neighbors_kept", (same[:, :-1, :-1] & same[:, 1:, 1:]).any(axis=1).mean(axis=1)
    yield "first_place_found", np.where(found.any(axis=1), here.argmax(axis=1) / texts.shape[1], 1.0)
    yield "ends_with_query_word", here[np.arange(len(rows)), np.maximum(lengths - 1, 0)]
    weights = np.where(texts >= 0, lexical.idf[np.maximum(texts, 0)], 0)
    yield "title_idf_found", (here * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-6)
