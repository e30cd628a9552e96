"""Candidates of a search and what the ranker reads of them, worked out by hand."""

import numpy as np
import pytest

from pipelines.inference.ranker_features import SEARCH_FEATURES
from pipelines.ranking.search_candidates import (
    GENERATORS,
    SearchCandidates,
    search_candidates,
    without_generator,
)
from pipelines.retrieval.lexical import LexicalIndex

TITLES = ["red apple pie 12", "green apple", "oat milk", "apple red"]
VECTORS = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.8, -0.6]], np.float32)
QUERY_VECTOR = np.array([1, 0], np.float32)


@pytest.fixture(scope="module")
def lexical():
    return LexicalIndex.build(TITLES)


def candidates(lexical, query, *, per_generator=4, **more) -> SearchCandidates:
    return search_candidates(
        query, QUERY_VECTOR, lexical, VECTORS, VECTORS @ QUERY_VECTOR, per_generator=per_generator, **more
    )


def feature(found: SearchCandidates, name: str) -> list[float]:
    return found.features[:, SEARCH_FEATURES.index(name)].tolist()


def test_candidates_are_the_best_by_meaning_and_by_words(lexical):
    found = candidates(lexical, "milk", per_generator=1)
    assert found.rows.tolist() == [0, 2]
    assert found.found_by.tolist() == [[True, False], [False, True]]
    assert feature(found, "cosine") == [1.0, 0.0]
    assert feature(found, "cosine_behind_best") == [0.0, -1.0]
    assert feature(found, "dense_place") == pytest.approx([1, 1 / 1.1])
    assert feature(found, "lexical_of_best") == [0.0, 1.0]
    assert feature(found, "lexical_place") == pytest.approx([1 / 1.1, 1])


def test_words_of_the_query_that_a_title_has(lexical):
    found = candidates(lexical, "red apples 12")
    idf = {word: lexical.idf[lexical.vocabulary[word]] for word in ("red", "apple", "12")}
    whole = sum(idf.values())
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert feature(found, "words_found") == pytest.approx([1, 1 / 3, 0, 2 / 3])
    assert feature(found, "idf_found") == pytest.approx(
        [1, idf["apple"] / whole, 0, (idf["red"] + idf["apple"]) / whole]
    )
    assert feature(found, "rarest_missing") == [0, 1, 1, 1]  # "12" is the rarest word
    assert feature(found, "first_word_found") == [1, 0, 0, 1]
    assert feature(found, "last_word_found") == [1, 1, 0, 1]
    assert feature(found, "numbers_found") == [1, 0, 0, 0]
    assert feature(found, "numbers") == [1, 1, 1, 1]
    assert feature(found, "neighbors_kept") == [0.5, 0, 0, 0]  # "red apple", of "red apple" and "apple 12"
    assert feature(found, "first_place_found") == pytest.approx([0, 1 / 24, 1, 0])
    assert feature(found, "ends_with_query_word") == [1, 1, 0, 1]
    assert feature(found, "title_words") == pytest.approx(np.log1p([4, 2, 2, 2]).tolist())
    assert feature(found, "title_idf_found")[3] == pytest.approx(1.0)


def test_nearness_to_the_best_candidates(lexical):
    center = VECTORS.sum(axis=0) / np.linalg.norm(VECTORS.sum(axis=0))  # fewer than ten: all of them
    assert feature(candidates(lexical, "apple"), "near_best_dense") == pytest.approx((VECTORS @ center).tolist())


@pytest.mark.parametrize("query", ["", "!?", "the", "zebra"], ids=["empty", "no word", "stop word", "unknown word"])
def test_a_query_without_known_words_has_dense_candidates_and_finite_features(lexical, query):
    found = candidates(lexical, query)
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert np.isfinite(found.features).all()
    assert not found.found_by[:, GENERATORS.index("lexical")].any()
    assert feature(found, "words_found") == [0, 0, 0, 0]
    assert feature(found, "unknown_words") == [float(query == "zebra")] * 4


def test_only_allowed_items_are_candidates(lexical):
    assert candidates(lexical, "apple", allowed=np.array([False, True, True, False])).rows.tolist() == [1, 2]
    nothing = candidates(lexical, "apple", allowed=np.zeros(4, bool))
    assert nothing.features.shape == (0, len(SEARCH_FEATURES))


def test_an_index_without_words_of_items_still_gives_features(lexical):
    older = LexicalIndex(lexical._scorer, np.empty((4, 0), np.int32))
    found = candidates(older, "red apple")
    assert np.isfinite(found.features).all()
    assert feature(found, "words_found") == [0, 0, 0, 0]
    assert max(feature(found, "lexical_of_best")) == 1.0


def test_without_a_generator_its_candidates_and_features_are_gone(lexical):
    found = candidates(lexical, "milk", per_generator=1)
    dense = without_generator(found, "lexical")
    assert dense.rows.tolist() == [0]
    assert feature(dense, "cosine") == [1.0]
    assert feature(dense, "title_words") == [0.0]
    words = without_generator(found, "dense")
    assert words.rows.tolist() == [2]
    assert feature(words, "cosine_of_best") == [0.0]
    assert feature(words, "words_found") == [1.0]
    assert feature(found, "cosine") == [1.0, 0.0]  # what was given stays as it was
