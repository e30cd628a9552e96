"""BM25 over item texts."""

import math

import numpy as np
import pytest

from pipelines.retrieval.lexical import LexicalIndex


def words(index: LexicalIndex, query: str) -> list[str]:
    names = {number: word for word, number in index.vocabulary.items()}
    return [names[number] for number in index.query_words(query)]


def test_scores_are_bm25(tmp_path):
    texts = ["red apple", "green apple pie", "milk"]
    index = LexicalIndex.build(texts)
    index.save(tmp_path)

    def bm25(n_with_word: int, length: int) -> float:  # Lucene's form, k1 = b = 0.6, one occurrence
        idf = math.log(1 + (3 - n_with_word + 0.5) / (n_with_word + 0.5))
        return idf / (1 + 0.6 * (1 - 0.6 + 0.6 * length / 2))

    expected = [bm25(2, 2), bm25(2, 3) + bm25(1, 3), 0.0]
    assert index.scores("Apples for a pie").tolist() == pytest.approx(expected, rel=1e-5)
    assert LexicalIndex.load(tmp_path).scores("Apples for a pie").tolist() == pytest.approx(expected, rel=1e-3)
    assert index.idf.tolist() == pytest.approx([math.log(8 / 3), math.log(1.6), *[math.log(8 / 3)] * 3])
    assert index.item_words[:, :4].tolist() == [[0, 1, -1, -1], [2, 1, 3, -1], [4, -1, -1, -1]]


def test_words_that_many_items_have_count_as_the_others_do():
    index = LexicalIndex.build(["red apple", "red apple pie", "red milk", "red red apple", "rye"])
    assert {word for word, number in index.vocabulary.items() if number in index._frequent} == {"red", "apple"}
    for query in ("red", "pie", "red pie", "red apple pie milk", "apple red apple", "rye pie"):
        numbers = index.query_words(query)
        np.testing.assert_allclose(index.scores_of(numbers), index._scorer.get_scores_from_ids(numbers), rtol=1e-6)


@pytest.mark.parametrize("query", ["", "zebra", "the"])
def test_a_query_without_known_words_finds_nothing(query):
    assert LexicalIndex.build(["red apple", "milk"]).scores(query).tolist() == [0.0, 0.0]


def test_texts_without_words_can_be_indexed():
    index = LexicalIndex.build(["!", "?"])
    assert index.n_items == 2
    assert index.scores("anything").tolist() == [0.0, 0.0]


def test_two_words_find_the_compound_and_the_other_way_around():
    index = LexicalIndex.build([*["door bell"] * 3, "doorbell", "door"])
    assert words(index, "door bell") == ["doorbell", "door", "bell"]
    assert words(index, "doorbell") == ["doorbell", "door", "bell"]
    assert (index.scores("doorbell")[:4] > 0).all()


def test_a_compound_has_parts_only_where_enough_items_have_both():
    assert words(LexicalIndex.build([*["door bell"] * 2, "door"]), "doorbell") == []
    assert words(LexicalIndex.build(["door bell"] * 3), "doorbell") == ["door", "bell"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        pytest.param("ligth", ["light"], id="letters swapped"),
        pytest.param("lght", ["light"], id="letter missing"),
        pytest.param("lightt", ["light"], id="letter too many"),
        pytest.param("pight", ["light"], id="the frequent word, not the rare one"),
        pytest.param("sighh", ["sight"], id="one error, not two"),
        pytest.param("light", ["light"], id="known words stay"),
        pytest.param("lig", [], id="too short to guess"),
        pytest.param("l1ght", ["1"], id="numbers are not mended"),
    ],
)
def test_a_word_that_no_item_has_stands_for_one_that_is_a_typing_error_away(typed, meant):
    assert words(LexicalIndex.build([*["light"] * 5, "sight", "1"]), typed) == meant


def test_the_first_letter_is_seldom_wrong():
    assert words(LexicalIndex.build([*["light"] * 3, *["night"] * 2]), "nlght") == ["night"]


def test_words_of_items_come_back_as_they_were(tmp_path):
    index = LexicalIndex.build(["red apple", "milk"])
    index.save(tmp_path)
    saved = np.load(tmp_path / "item_words.npy")
    assert saved.dtype == np.uint16
    assert len(saved) == (index.item_words >= 0).sum()  # no room for words that are not there
    loaded = LexicalIndex.load(tmp_path)
    assert loaded.item_words.dtype == np.int32
    assert loaded.item_words.tolist() == index.item_words.tolist()
    assert np.flatnonzero(loaded.scores("milk")).tolist() == [1]
