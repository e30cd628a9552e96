"""Neighbors by text, worked out by hand."""

import numpy as np
import pytest

from pipelines.retrieval.text_neighbors import build_lexical_neighbors, build_vector_neighbors


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


def test_vectors_that_are_near_count_by_a_power_of_their_cosine():
    vectors = np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32)
    table = build_vector_neighbors(vectors, power=2.0)
    assert table.of(0)[0].tolist() == [1]
    assert table.of(0)[1].tolist() == pytest.approx([0.36])
    assert table.of(2)[0].tolist() == []
    assert len(build_vector_neighbors(vectors[:1]).ids) == 0


def test_a_clustering_finds_most_of_what_every_pair_would():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 16))
    vectors = (centers[rng.integers(0, 20, 2_000)] + 0.4 * rng.normal(size=(2_000, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, near = (build_vector_neighbors(vectors, neighbors=10, exact_items=limit) for limit in (2_000, 0))
    shared = [len(set(exact.of(row)[0]) & set(near.of(row)[0])) for row in range(2_000)]
    assert np.mean(shared) > 9.5
    assert all(row not in near.of(row)[0] for row in range(2_000))
