"""Ranking metrics, worked out by hand."""

import math

import numpy as np
import pytest

from pipelines.evaluation.metrics import METRICS, ndcg_at, recall_at, reciprocal_rank


def ranks(*values):
    return np.asarray(values, np.int64)


def test_recall_is_the_share_of_targets_that_are_found():
    assert recall_at(ranks(1, 10, 11, 500), 10) == 0.5
    assert recall_at(ranks(11), 10) == 0.0
    assert recall_at(ranks(11), 100) == 1.0


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        pytest.param([1], 1.0, id="one target, first"),
        pytest.param([2], 1 / math.log2(3), id="one target, second"),
        pytest.param([3], 0.5, id="one target, third"),
        pytest.param([11], 0.0, id="behind the cut"),
        pytest.param([1, 2], 1.0, id="two targets in front"),
        pytest.param([1, 3], 1.5 / (1 + 1 / math.log2(3)), id="first and third"),
        pytest.param(list(range(1, 21)), 1.0, id="more targets than places"),
    ],
)
def test_ndcg_at_10(places, expected):
    assert ndcg_at(ranks(*places), 10) == pytest.approx(expected)


def test_reciprocal_rank_looks_at_the_best_target():
    assert reciprocal_rank(ranks(8, 4, 100)) == 0.25


def test_a_report_shows_these_metrics():
    found = {name: metric(ranks(2, 50)) for name, metric in METRICS.items()}
    assert found == pytest.approx(
        {"recall@10": 0.5, "recall@100": 1.0, "ndcg@10": (1 / math.log2(3)) / (1 + 1 / math.log2(3)), "mrr": 0.5}
    )
