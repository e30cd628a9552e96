"""What lists are like, worked out by hand."""

import math

import numpy as np
import pytest

from pipelines.evaluation.beyond_accuracy import coverage, diversity, gini, novelty_bits, popularity_ranks

TOP = np.asarray([[0, 1], [0, -1]], np.int32)
"""Two lists over four items: one shows two, one shows one."""


def test_coverage_is_the_share_of_items_in_any_list():
    assert coverage(TOP, 4) == 0.5


def test_novelty_is_the_self_information():
    counts = np.asarray([3.0, 1.0, 0.0, 0.0])  # with one more each: shares 1/2, 1/4, 1/8, 1/8
    assert novelty_bits(TOP, counts).tolist() == pytest.approx([1.5, 1.0])


def test_equally_popular_items_share_a_rank():
    counts = np.asarray([5.0, 9.0, 5.0, 0.0])  # ranks 2.5, 1, 2.5, 4
    assert popularity_ranks(np.asarray([[0, 1], [3, -1]]), counts).tolist() == pytest.approx([1.75, 4])


def test_diversity_is_the_mean_distance_of_pairs():
    half = math.sqrt(0.5)
    vectors = np.asarray([[1, 0], [0, 1], [half, half]], np.float32)
    # cosines 0, half, half: mean distance 1 − (0 + 2 · 0.7071) / 3
    [found] = diversity(np.asarray([[0, 1, 2]]), vectors)
    assert found == pytest.approx(1 - 2 * half / 3)
    assert math.isnan(diversity(np.asarray([[0, -1, -1]]), vectors)[0])


def test_items_without_text_are_at_distance_one():
    assert diversity(np.asarray([[0, 1]]), np.asarray([[1, 0], [0, 0]], np.float32)).tolist() == [1.0]


def test_gini_of_equal_lists_is_zero_and_of_one_item_near_one():
    assert gini(np.asarray([[0, 1], [2, 3]]), 4) == pytest.approx(0.0)
    assert gini(np.asarray([[0], [0]]), 4) == pytest.approx(0.75)  # (n − 1) / n
    assert gini(np.full((2, 2), -1), 4) == 0.0
