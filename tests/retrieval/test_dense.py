"""The int8 vectors and their index against the exact product."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.inference.sessions import open_session
from pipelines.retrieval.dense import INDEX, DenseIndex, ItemVectors, dense_scores


@pytest.fixture(scope="module")
def items():
    generator = np.random.default_rng(0)
    items = generator.normal(size=(2_000, 64)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[7] = -items[3]
    return items


def test_the_index_is_within_a_hundredth_and_keeps_the_best(tmp_path, items):
    ItemVectors.quantized(items).save(tmp_path)
    index = DenseIndex(open_session(tmp_path / INDEX, "cpu"))
    assert index.n_items == 2_000
    exact = dense_scores(items[3:4], items)[0]
    fast = index.scores(items[3])
    assert np.abs(fast - exact).max() < 0.01
    assert fast.argmax() == 3
    assert fast.argmin() == 7
    assert set(np.argsort(-exact)[:10]) <= set(np.argsort(-fast)[:30])


def test_numbers_at_the_end_of_the_range_do_not_saturate(tmp_path):
    items = np.stack([np.ones(64), -np.ones(64)]).astype(np.float32) / 8
    ItemVectors.quantized(items).save(tmp_path)
    scores = DenseIndex(open_session(tmp_path / INDEX, "cpu")).scores(items[0])
    np.testing.assert_allclose(scores, [1, -1], atol=1e-5)


def test_rows_come_back_nearly_as_they_were(items):
    vectors = ItemVectors.quantized(items)
    assert vectors.shape == (2_000, 64)
    np.testing.assert_allclose(vectors[[5, 9]], items[[5, 9]], atol=2e-3)
    assert vectors[np.array([[5, 9, 5]])].shape == (1, 3, 64)
    np.testing.assert_array_equal(vectors[4], np.asarray(vectors)[4])
    np.testing.assert_allclose(np.linalg.norm(vectors[:], axis=1), 1, atol=1e-5)
    assert (vectors[:] * items).sum(1).min() > 0.9999


def test_scores_by_block_are_those_of_the_whole(items):
    many = ItemVectors.quantized(np.concatenate([items] * 5))
    np.testing.assert_allclose(dense_scores(items[:2], many), items[:2] @ np.asarray(many).T, atol=1e-5)


def test_products_of_many_rows_are_those_of_each(items):
    vectors, rows = ItemVectors.quantized(items), np.random.default_rng(5).integers(0, len(items), 700)
    asked = items[:2].astype(np.float32)
    expected = vectors[rows] @ asked.T
    np.testing.assert_allclose(vectors.products(rows, asked.T), expected, atol=1e-5)
    np.testing.assert_allclose(vectors.products(rows, asked[0]), expected[:, 0], atol=1e-5)
    assert vectors.products(rows[:0], asked[0]).shape == (0,)


def test_what_is_saved_is_what_is_loaded(tmp_path, items):
    vectors = ItemVectors.quantized(items)
    vectors.save(tmp_path)
    np.testing.assert_array_equal(ItemVectors.load(tmp_path)[:], vectors[:])
    np.save(tmp_path / "item_scales.npy", np.ones(3, np.float32))
    with pytest.raises(DataError, match=r"int8 \(2000, 64\).*\(3,\)"):
        ItemVectors.load(tmp_path)


def test_new_vectors_stand_behind_the_others(items):
    grown = ItemVectors.quantized(items[:10]).grown(items[10:12])
    np.testing.assert_array_equal(grown[:], ItemVectors.quantized(items[:12])[:])
