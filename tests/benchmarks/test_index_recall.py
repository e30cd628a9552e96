"""Recall of an index against a product with every vector."""

import numpy as np

from pipelines.benchmarks.index_recall import History, asked_vectors, index_recall
from pipelines.inference.bundle import load_bundle
from tests.toys.toy_bundle import DIM, write_toy_bundle


class Every:
    """An index that leaves out some rows."""

    def __init__(self, vectors: np.ndarray, missed: list[int]) -> None:
        self.vectors, self.missed = vectors, missed

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        scores = self.vectors @ vector
        scores[self.missed] = -2
        rows = np.argsort(-scores, kind="stable")[:k]
        return rows, scores[rows]


def test_recall_is_the_share_of_the_true_nearest_that_is_found():
    vectors = np.eye(10, dtype=np.float32) + 0.01 * np.arange(10, dtype=np.float32)
    asked = vectors[[9]]
    assert index_recall(Every(vectors, []), vectors, asked, k=4).tolist() == [1.0]
    assert index_recall(Every(vectors, [9, 0]), vectors, asked, k=4).tolist() == [0.75]
    assert index_recall(Every(vectors, []), vectors, asked, k=20).tolist() == [1.0]


def test_users_without_a_known_item_ask_nothing(tmp_path):
    write_toy_bundle(tmp_path / "b")
    users = [History(["a"], ["view"], [0]), History(["unknown"], ["view"], [0])]
    assert asked_vectors(load_bundle(tmp_path / "b"), ["red", "milk"], users, 10.0).shape == (3, DIM)
