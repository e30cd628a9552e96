"""Neighbors by text, worked out by hand."""

import numpy as np

from pipelines.retrieval.text_neighbors import build_lexical_neighbors


def test_items_that_share_a_rare_word_are_near():
    table = build_lexical_neighbors(["acme soap", "acme cream", "soap dish", "lamp"])
    assert sorted(table.of(0)[0].tolist()) == [1, 2]
    # item 0 has two useful words of equal weight, the others one each: cosine 1/√2
    np.testing.assert_allclose(table.of(0)[1], [2**-0.5] * 2, rtol=1e-6)
    assert table.of(3)[0].tolist() == []


def test_a_word_of_too_many_items_says_nothing():
    texts = ["acme soap", "acme cream", "acme dish"]
    assert len(build_lexical_neighbors(texts, max_items_per_term=2).ids) == 0
    assert len(build_lexical_neighbors(texts, max_items_per_term=3).ids) == 6
