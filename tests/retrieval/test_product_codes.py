"""Product codes: what they keep of products, and that they can be kept themselves."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.retrieval.dense import ItemVectors
from pipelines.retrieval.product_codes import _directions, build_codes, packed, unpacked

N, DIM = 2_000, 12


def units(generator, *shape: int) -> np.ndarray:
    vectors = generator.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    return ItemVectors.quantized(units(np.random.default_rng(1), N, DIM))


@pytest.fixture(scope="module")
def codes(vectors):
    return build_codes(vectors, vectors[:], DIM)


def test_with_all_directions_products_stay():
    generator = np.random.default_rng(2)
    questions, items = generator.standard_normal((2, 500, DIM)).astype(np.float32)
    of_questions, of_items = _directions(questions, items, DIM)
    np.testing.assert_allclose(of_questions.T @ of_items, np.eye(DIM), atol=1e-4)


def test_directions_are_those_in_which_questions_and_items_meet():
    generator = np.random.default_rng(3)
    questions, items = generator.standard_normal((2, 4_000, 4)).astype(np.float32)
    questions *= [9, 3, 0.01, 0.01]  # nobody asks in the third direction, where the items differ most
    items *= [1, 3, 4, 0.01]
    of_questions, of_items = _directions(questions, items, 2)
    np.testing.assert_allclose(of_questions.T @ of_items, np.diag([1, 1, 0, 0]), atol=0.1)


def test_every_direction_has_the_same_weight():
    generator = np.random.default_rng(4)
    questions, items = generator.standard_normal((2, 4_000, DIM)).astype(np.float32)
    items *= np.arange(1, DIM + 1)
    of_questions, of_items = _directions(questions, items, DIM)
    spread = (items @ of_items.T).var(axis=0)
    asked = (questions @ of_questions.T).var(axis=0)
    assert spread.max() < 3 * spread.min()
    np.testing.assert_allclose(spread.sum(), asked.sum(), rtol=0.15)


def test_the_nearest_come_first_and_no_more_than_there_are(vectors, codes):
    rows, scores = codes.nearest(vectors[7], 5)
    assert rows[0] == 7
    assert (np.diff(scores) <= 0).all()
    rows, scores = codes.nearest(vectors[7], N + 50)
    assert sorted(rows.tolist()) == list(range(N))
    assert len(scores) == N


def test_the_same_vectors_give_the_same_codes_and_they_can_be_kept(vectors, codes):
    content = packed({"one": codes, "other": codes})
    assert content == packed(dict.fromkeys(("one", "other"), build_codes(vectors, vectors[:], DIM)))
    again = unpacked(content, ("one", "other"), (N, DIM))
    assert list(again) == ["one", "other"]
    for kept in again.values():
        assert kept.nearest(vectors[3], 5)[0].tolist() == codes.nearest(vectors[3], 5)[0].tolist()


def test_what_is_no_codes_or_those_of_other_vectors_is_refused(codes):
    content = packed({"one": codes})
    with pytest.raises(DataError, match="These are no product codes"):
        unpacked(b"something else", ("one",), (N, DIM))
    with pytest.raises(DataError, match="These are no product codes"):
        unpacked(content, ("one", "another"), (N, DIM))
    with pytest.raises(DataError, match=r"of 2,000 vectors of 12 dimensions, \(5, 12\) are needed"):
        unpacked(content, ("one",), (5, DIM))
