"""Graded metrics, worked out by hand."""

import math

import numpy as np
import pytest

from pipelines.evaluation.graded import graded_ndcg, share_found


def test_the_best_order_is_one():
    assert graded_ndcg(np.asarray([1, 2, 3]), np.asarray([2.0, 1.0, 0.0])) == pytest.approx(1.0)


def test_gains_are_exponential_and_discounted():
    # gain 2 (worth 3) on place 3, gain 1 (worth 1) on place 1; ideal is 3 on place 1 and 1 on place 2
    ideal = 3 + 1 / math.log2(3)
    assert graded_ndcg(np.asarray([3, 1]), np.asarray([2.0, 1.0])) == pytest.approx((3 / 2 + 1) / ideal)


def test_places_behind_the_cut_count_nothing():
    assert graded_ndcg(np.asarray([11, 12]), np.asarray([2.0, 1.0])) == 0.0


def test_a_query_without_gain_does_not_count():
    assert math.isnan(graded_ndcg(np.asarray([1]), np.asarray([0.0])))


def test_recall_is_the_share_of_the_relevant():
    assert share_found(np.asarray([1, 100, 101, 2_000]), 100) == 0.5
    assert math.isnan(share_found(np.empty(0, np.int64), 100))
