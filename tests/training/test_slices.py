"""Metrics of single rows, worked out by hand."""

import math

import numpy as np
import pytest

from pipelines.training.slices import hit_metrics


@pytest.mark.parametrize(
    ("top", "wanted", "recall", "ndcg"),
    [
        pytest.param([3, 1, 2], [3], 1.0, 1.0, id="first"),
        pytest.param([1, 3, 2], [3], 1.0, 1 / math.log2(3), id="second"),
        pytest.param([1, 2, 4], [3], 0.0, 0.0, id="missed"),
        pytest.param([3, 1, 5], [5, 3], 1.0, (1 + 0.5) / (1 + 1 / math.log2(3)), id="two"),
        pytest.param([3, 1, 5], [3, 6, 7, 8], 0.25, 1 / (1 + 1 / math.log2(3) + 0.5), id="more than fit"),
    ],
)
def test_hits_of_one_ranking(top, wanted, recall, ndcg):
    found = hit_metrics(np.array(top), np.array(wanted), k=3)
    assert found == pytest.approx((recall, ndcg))
