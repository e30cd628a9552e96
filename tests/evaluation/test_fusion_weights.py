"""Weights of parts: found where they are known."""

import numpy as np
import pytest

from pipelines.evaluation.fusion_weights import candidate_table, choose_weights, joined_tables, mean_ndcg, relative

NOTHING = np.empty(0, np.int64)


def table(parts, wanted, seen=NOTHING, gain=1.0):
    """Return the table of one row over few items."""
    return candidate_table(
        [np.asarray([part], np.float32) for part in parts], [np.asarray(wanted)], [np.full(len(wanted), gain)], [seen]
    )


def test_scores_are_relative_to_the_best_of_the_row():
    scores = np.asarray([[2, 4, -1], [0, 0, 0], [-1, -2, -3]], np.float32)
    assert relative(scores).tolist() == [[0.5, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_ndcg_of_a_sum():
    found = table([[3, 2, 1], [0, 0, 1]], wanted=[2])
    assert mean_ndcg(found, np.asarray([1, 0])) == pytest.approx(0.5)  # third place
    assert mean_ndcg(found, np.asarray([1, 5])) == pytest.approx(1.0)


def test_seen_items_take_no_place():
    found = table([[3, 2, 1]], wanted=[1], seen=np.asarray([0]))
    assert mean_ndcg(found, np.asarray([1])) == pytest.approx(1.0)


def test_a_row_without_a_wanted_item_does_not_count():
    both = joined_tables([table([[3, 2, 1]], wanted=[0]), table([[3, 2, 1]], wanted=NOTHING)])
    assert mean_ndcg(both, np.asarray([1])) == pytest.approx(1.0)


def test_the_smallest_weight_that_is_best_is_chosen():
    # the wanted item needs 1 + weight · 1 > 2, so more than 1: of the steps tried, 1.5 is the first
    found = table([[2, 1, 0], [0, 1, 0]], wanted=[1])
    assert choose_weights(found, ["words", "meaning"]) == {"words": 1.0, "meaning": 1.5}


def test_a_part_that_only_harms_gets_no_weight():
    found = table([[2, 1, 0], [0, 3, 0]], wanted=[0])
    assert choose_weights(found, ["good", "bad"]) == {"good": 1.0, "bad": 0.0}
