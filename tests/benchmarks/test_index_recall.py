"""Recall of an index against a product with every vector."""

import numpy as np

from pipelines.benchmarks.index_recall import Asked, History, asked_vectors, index_recall
from pipelines.inference.bundle import load_bundle
from tests.toys.toy_bundle import DIM, write_toy_bundle


class Every:
    """An index that leaves out some rows."""

    def __init__(self, vectors: np.ndarray, missed: list[int]) -> None:
        self.vectors, self.missed = vectors, missed

    def nearest(self, vector, k, allowed=None, *, asker="query") -> tuple[np.ndarray, np.ndarray]:
        assert asker == "user"
        scores = self.vectors @ vector
        scores[self.missed] = -2
        rows = np.argsort(-scores, kind="stable")[:k]
        return rows, scores[rows]


def test_recall_is_the_share_of_the_true_nearest_that_is_found():
    vectors = np.eye(10, dtype=np.float32) + 0.01 * np.arange(10, dtype=np.float32)
    asked = Asked("user", vectors[[9]])
    assert index_recall(Every(vectors, []), vectors, asked, k=4).tolist() == [1.0]
    assert index_recall(Every(vectors, [9, 0]), vectors, asked, k=4).tolist() == [0.75]
    assert index_recall(Every(vectors, []), vectors, asked, k=20).tolist() == [1.0]


def test_users_without_a_known_item_ask_nothing(tmp_path):
    write_toy_bundle(tmp_path / "b")
    users = [History(["a"], ["view"], [0]), History(["unknown"], ["view"], [0])]
    asked = asked_vectors(load_bundle(tmp_path / "b"), ["red", "milk"], users, 10.0)
    assert {kind: one.vectors.shape for kind, one in asked.items()} == {
        "queries": (2, DIM),
        "users": (1, DIM),
        "short histories": (1, DIM),
    }
    assert [one.asker for one in asked.values()] == ["query", "user", "user"]
    nobody = asked_vectors(load_bundle(tmp_path / "b"), ["red"], users[1:], 10.0)
    assert nobody["users"].vectors.shape == (0, DIM)


def test_a_short_history_is_that_of_the_newest_events(tmp_path):
    write_toy_bundle(tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    user = History(["e", "a", "b"], ["view"] * 3, [0, 1, 2])
    short = asked_vectors(bundle, ["red"], [user] * 3, 10.0)["short histories"].vectors
    for vector, items in zip(short, (["b"], ["a", "b"], ["e", "a", "b"]), strict=True):
        total = bundle.item_vectors[bundle.rows_of(items)].sum(axis=0)
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-5)
