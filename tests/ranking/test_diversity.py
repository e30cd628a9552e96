"""Maximal marginal relevance, worked out by hand."""

import numpy as np
import pytest

from pipelines.ranking.diversity import diversify

SCORES = np.array([1.0, 0.9, 0.8, 0.2], np.float32)
VECTORS = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1], [0, 1, 0]], np.float32)
"""The second is like the first by 0.6 and like the last by 0.8; the others are unlike."""


@pytest.mark.parametrize(
    ("weight", "n", "order"),
    [
        pytest.param(0.0, 4, [0, 1, 2, 3], id="no weight, no change"),
        # After the first: 0.9 * 0.9 - 0.06 = 0.75, 0.72, 0.18. After the second: 0.72, 0.18 - 0.08.
        pytest.param(0.1, 4, [0, 1, 2, 3], id="a small weight"),
        # After the first: 0.45 - 0.3 = 0.15, 0.4, 0.1. After the third: 0.15, 0.1. The last was never picked before.
        pytest.param(0.5, 4, [0, 2, 1, 3], id="an unlike item comes forward"),
        # After the first: 0.18 - 0.48 < 0, 0.16, 0.04. After the third: -0.3, 0.04.
        pytest.param(0.8, 4, [0, 2, 3, 1], id="likeness decides"),
        pytest.param(0.8, 2, [0, 2, 1, 3], id="what is not picked keeps its order"),
    ],
)
def test_order(weight, n, order):
    assert diversify(SCORES, VECTORS, weight, n).tolist() == order


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e4])
def test_the_scale_of_scores_does_not_matter(scale):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = np.sort(rng.random(30).astype(np.float32))[::-1]
        vectors = rng.standard_normal((30, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        order = diversify(scores, vectors, 0.4, 10)
        assert sorted(order.tolist()) == list(range(30))
        assert diversify(scores * np.float32(scale), vectors, 0.4, 10).tolist() == order.tolist()


def test_nothing_scored_is_left_as_it_is():
    assert diversify(np.zeros(4, np.float32), VECTORS, 0.5, 4).tolist() == [0, 1, 2, 3]
    assert diversify(np.empty(0, np.float32), VECTORS[:0], 0.5, 4).tolist() == []
