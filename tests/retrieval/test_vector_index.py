"""The indexes over vectors: what is nearest, whatever is allowed."""

import numpy as np
import pytest

from pipelines.inference.sessions import open_session
from pipelines.retrieval.dense import INDEX, DenseIndex, ItemVectors
from pipelines.retrieval.vector_index import (
    ASKERS,
    ExactVectorIndex,
    FastScanVectorIndex,
    GrownVectorIndex,
    build_fast_scan,
)

N, DIM = 6_000, 24


def units(generator, *shape: int) -> np.ndarray:
    vectors = generator.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    return ItemVectors.quantized(units(np.random.default_rng(1), N, DIM))


@pytest.fixture(scope="module")
def exact(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    vectors.save(folder)
    return ExactVectorIndex(DenseIndex(open_session(folder / INDEX, "cpu")), vectors)


@pytest.fixture(scope="module")
def fast(vectors, exact):
    anything = units(np.random.default_rng(5), 500, DIM)
    return FastScanVectorIndex(build_fast_scan(vectors, dict.fromkeys(ASKERS, anything)), vectors, exact)


class Refusing:
    """An index that must not be asked."""

    def nearest(self, vector, k, allowed=None, *, asker="query"):
        raise AssertionError("the codes do")


def wanted(vectors, vector, k, allowed=None) -> list[int]:
    scores = vectors.products(np.arange(N), vector)
    if allowed is not None:
        scores = np.where(allowed, scores, -2)
    return np.argsort(-scores, kind="stable")[:k].tolist()


@pytest.mark.parametrize("share", [None, 0.9, 0.01], ids=["all", "most allowed", "few allowed"])
def test_the_exact_index_finds_the_nearest_items(vectors, exact, share):
    generator = np.random.default_rng(2)
    allowed = None if share is None else generator.random(N) < share
    for vector in units(generator, 5, DIM):
        rows, scores = exact.nearest(vector, 20, allowed)
        assert rows.tolist() == wanted(vectors, vector, 20, allowed)
        np.testing.assert_allclose(scores, vectors.products(rows, vector), atol=1e-6)


@pytest.mark.parametrize("share", [None, 0.9, 0.4], ids=["all", "most allowed", "less than half allowed"])
def test_product_codes_find_nearly_all_without_asking_all_items(vectors, fast, share):
    generator = np.random.default_rng(3)
    allowed = None if share is None else generator.random(N) < share
    alone = FastScanVectorIndex(fast.codes, vectors, Refusing())
    found = total = 0
    for vector in units(generator, 20, DIM):
        rows, scores = alone.nearest(vector, 100, allowed)
        assert (np.diff(scores) <= 0).all()
        assert allowed is None or allowed[rows].all()
        found, total = found + len(set(rows.tolist()) & set(wanted(vectors, vector, 100, allowed))), total + 100
    assert found / total >= 0.98


def test_a_filter_that_leaves_few_items_or_far_ones_loses_nothing(vectors, fast):
    vector = units(np.random.default_rng(4), DIM)
    scores = vectors.products(np.arange(N), vector)
    few = np.zeros(N, bool)
    few[::100] = True
    far = scores < np.median(scores)  # half of the items, none of them near
    for allowed in (few, far):
        assert fast.nearest(vector, 50, allowed)[0].tolist() == wanted(vectors, vector, 50, allowed)
    assert len(fast.nearest(vector, 10, np.zeros(N, bool))[0]) == 0


def test_items_behind_an_index_are_found_and_filtered(vectors, exact):
    vector = vectors[7]
    grown = GrownVectorIndex(exact, N, vectors.grown(np.stack([vector, -vector])))
    rows, scores = grown.nearest(vector, 3)
    assert rows[:2].tolist() == [7, N]
    assert scores[:2].tolist() == pytest.approx([1, 1], abs=1e-3)
    allowed = np.ones(N + 2, bool)
    allowed[[7, N]] = False
    assert not {7, N} & set(grown.nearest(vector, 3, allowed)[0].tolist())


class Remembering:
    """Codes, or an index, that say who asked them."""

    def __init__(self, inner) -> None:
        self.inner, self.askers = inner, []

    def nearest(self, *question, **more):
        self.askers.append(more.get("asker"))
        return self.inner.nearest(*question, **more)


@pytest.mark.parametrize("asker", ASKERS)
def test_each_asker_has_codes_of_its_own(vectors, fast, asker):
    codes = {name: Remembering(one) for name, one in fast.codes.items()}
    FastScanVectorIndex(codes, vectors, Refusing()).nearest(vectors[3], 5, asker=asker)
    assert [name for name, one in codes.items() if one.askers] == [asker]


def test_the_index_under_a_grown_one_hears_who_asks(vectors, exact):
    index = Remembering(exact)
    GrownVectorIndex(index, N, vectors.grown(vectors[:1])).nearest(vectors[3], 5, asker="user")
    few = FastScanVectorIndex(dict.fromkeys(ASKERS), vectors, index)
    few.nearest(vectors[3], 5, np.arange(N) < 9, asker="user")
    assert index.askers == ["user", "user"]


def test_users_are_told_apart_by_fewer_codes_than_queries():
    wide = ItemVectors.quantized(units(np.random.default_rng(6), 300, 240))
    codes = build_fast_scan(wide, dict.fromkeys(ASKERS, wide[:]))
    assert {asker: len(one.turn) for asker, one in codes.items()} == {"user": 64, "query": 80}
