"""Qdrant behind the seam of dense retrieval: its real embedded mode, and an engine that misbehaves."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.benchmarks.synthetic_shop import make_shop, write_shop_bundle
from pipelines.errors import ConfigError
from pipelines.inference.bundle import load_bundle
from pipelines.retrieval.vector_index import ExactVectorIndex
from pipelines.stores.qdrant_index import VARIABLE, QdrantVectorIndex, fill_collection, with_vector_engine

N = 3_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "b1"
    write_shop_bundle(make_shop(items=N, users=1, words=90, seed=1), folder, dim=16, seed=1)
    return load_bundle(folder)


class Engine:
    """A client that gives what it is told to, and counts how often it is asked."""

    def __init__(self, answer) -> None:
        self.answer, self.asked = answer, 0

    def query_points(self, collection, *, query, limit, with_payload, with_vectors):
        self.asked += 1
        return SimpleNamespace(points=[SimpleNamespace(id=row) for row in self.answer(limit)])


def failing(_):
    raise OSError("connection refused")


def slow(_):
    time.sleep(0.3)
    return []


def index_over(engine, bundle, **more) -> QdrantVectorIndex:
    return QdrantVectorIndex(engine, "b1", bundle.item_vectors, bundle.vector_index, **more)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(failing, "the vector engine failed", id="down"),
        pytest.param(slow, "the vector engine did not answer within 50 ms", id="slow"),
        pytest.param(lambda limit: [N + 1] * limit, "the vector engine failed", id="items of another bundle"),
    ],
)
def test_an_engine_that_does_not_answer_is_left_alone_for_a_while(bundle, answer, problem):
    engine, clock = Engine(answer), [100.0]
    index, vector = index_over(engine, bundle, now_s=lambda: clock[0]), bundle.item_vectors[5]
    expected = bundle.vector_index.nearest(vector, 7)[0].tolist()
    assert index.problem is None
    for _ in range(3):
        assert index.nearest(vector, 7)[0].tolist() == expected
    assert (engine.asked, index.problem) == (1, problem)
    clock[0] += 6
    assert index.problem is None
    index.nearest(vector, 7)
    assert engine.asked == 2


def test_what_the_engine_finds_is_scored_exactly_and_filtered(bundle):
    engine = Engine(lambda limit: range(limit))
    index, vector = index_over(engine, bundle), bundle.item_vectors[5]
    rows, scores = index.nearest(vector, 40)
    assert sorted(rows.tolist()) == list(range(40))
    np.testing.assert_allclose(scores, np.sort(bundle.item_vectors.products(np.arange(40), vector))[::-1])
    allowed = np.arange(N) % 10 != 0
    rows, _ = index.nearest(vector, 40, allowed)
    assert len(rows) == 40
    assert allowed[rows].all()


def test_a_filter_that_leaves_too_few_of_what_it_finds_is_answered_here(bundle):
    engine = Engine(lambda limit: range(limit))
    allowed = np.arange(N) >= 500  # nothing of what the engine gives first
    vector = bundle.item_vectors[5]
    rows, _ = index_over(engine, bundle).nearest(vector, 20, allowed)
    assert engine.asked == 1
    assert rows.tolist() == bundle.vector_index.nearest(vector, 20, allowed)[0].tolist()


@pytest.mark.parametrize("named", ["qdrant:", "milvus:http://here"])
def test_a_setting_that_names_nothing_is_refused(bundle, named):
    with pytest.raises(ConfigError, match="name a server or a folder, such as qdrant:http://localhost:6333"):
        with_vector_engine(bundle, {VARIABLE: named})
    assert with_vector_engine(bundle, {}) is bundle


@pytest.mark.slow
def test_the_embedded_engine_holds_a_bundle_and_finds_its_items(bundle, tmp_path):
    engine = with_vector_engine(bundle, {VARIABLE: f"qdrant:{tmp_path / 'qdrant'}"})
    assert isinstance(engine.vector_index, QdrantVectorIndex)
    patient = index_over(engine.vector_index._client, bundle, timeout_s=10)
    patient._collection = bundle.bundle_id
    generator = np.random.default_rng(2)
    for vector in generator.standard_normal((5, 16)).astype(np.float32):
        vector /= np.linalg.norm(vector)
        allowed = generator.random(N) < 0.8
        for mask in (None, allowed):
            rows, scores = patient.nearest(vector, 20, mask)
            assert patient.problem is None
            expected = bundle.vector_index.nearest(vector, 20, mask)
            assert len(set(rows.tolist()) & set(expected[0].tolist())) >= 19  # equals at the end of the list
            np.testing.assert_allclose(scores, expected[1], atol=1e-3)
    client = engine.vector_index._client
    assert client.count(bundle.bundle_id).count == N
    assert fill_collection(client, bundle.bundle_id, bundle.item_vectors) is False  # it is there already
    client.delete(bundle.bundle_id, points_selector=[3, 4])
    assert fill_collection(client, bundle.bundle_id, bundle.item_vectors) is True
    assert client.count(bundle.bundle_id).count == N


@pytest.mark.slow
def test_a_server_that_is_not_there_leaves_the_index_of_this_process(bundle, caplog):
    alone = with_vector_engine(bundle, {VARIABLE: "qdrant:http://127.0.0.1:9"})
    assert isinstance(alone.vector_index, ExactVectorIndex)
    assert "Qdrant is not asked for the bundle b1" in caplog.text
