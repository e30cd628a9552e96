"""BM25 over item texts."""

import math

import pytest

from pipelines.retrieval.lexical import LexicalIndex, tokens_of


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("The Chips and a Dip", ["chip", "dip"], id="stop words and case"),
        pytest.param("berries boxes glass cactus", ["berry", "boxe", "glass", "cactus"], id="plurals"),
        pytest.param("7 oz x", ["7", "oz"], id="digits count, single letters do not"),
        pytest.param("the of", [], id="nothing left"),
    ],
)
def test_tokens(text, tokens):
    assert tokens_of(text) == tokens


def test_scores_are_bm25(tmp_path):
    texts = ["red apple", "green apple pie", "milk"]
    LexicalIndex.build(texts).save(tmp_path)
    index = LexicalIndex.load(tmp_path)

    def bm25(n_with_word: int, length: int) -> float:  # Lucene's form, k1 = 1.5, b = 0.75, one occurrence
        idf = math.log(1 + (3 - n_with_word + 0.5) / (n_with_word + 0.5))
        return idf / (1 + 1.5 * (1 - 0.75 + 0.75 * length / 2))

    expected = [bm25(2, 2), bm25(2, 3) + bm25(1, 3), 0.0]
    assert index.scores("Apples for a pie").tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("query", ["", "zebra", "the"])
def test_a_query_without_known_words_finds_nothing(query):
    assert LexicalIndex.build(["red apple", "milk"]).scores(query).tolist() == [0.0, 0.0]


def test_texts_without_words_can_be_indexed():
    index = LexicalIndex.build(["!", "?"])
    assert index.n_items == 2
    assert index.scores("anything").tolist() == [0.0, 0.0]
