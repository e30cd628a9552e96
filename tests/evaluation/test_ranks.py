"""The place of a target in the full ranking."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.metrics import ndcg_at, recall_at, reciprocal_rank
from pipelines.evaluation.ranks import NEVER, target_ranks


def test_ranks_count_what_is_better():
    scores = np.asarray([0.1, 0.9, 0.5, 0.7], np.float32)
    every, _ = target_ranks(scores, np.asarray([1, 3, 2, 0]))
    assert every.tolist() == [1, 2, 3, 4]


def test_equal_scores_go_to_the_earlier_item():
    scores = np.asarray([0.0, 5.0, 5.0, 5.0], np.float32)
    assert target_ranks(scores, np.asarray([1, 2, 3, 0]))[0].tolist() == [1, 2, 3, 4]


def test_seen_items_make_room():
    scores = np.asarray([9, 8, 7, 6, 5], np.float32)
    every, unseen = target_ranks(scores, np.asarray([2, 4]), seen=np.asarray([0, 3]))
    assert every.tolist() == [3, 5]
    assert unseen.tolist() == [2, 3]


def test_an_item_that_is_not_in_the_catalogue_is_never_found():
    every, unseen = target_ranks(np.zeros(4, np.float32), np.asarray([-1]), seen=np.asarray([0]))
    assert every.tolist() == unseen.tolist() == [NEVER]
    assert recall_at(every, 100) == ndcg_at(every, 100) == 0
    assert reciprocal_rank(every) < 1e-18


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.data())
def test_ranks_are_those_of_a_stable_sort(values, data):
    scores = np.asarray(values, np.float32)
    seen = np.asarray(sorted(data.draw(st.sets(st.integers(0, len(values) - 1)))), np.int64)
    order = np.argsort(-scores, kind="stable")
    targets = np.arange(len(scores))
    every, unseen = target_ranks(scores, targets, seen)
    assert every[order].tolist() == list(range(1, len(scores) + 1))
    left = order[~np.isin(order, seen)]
    assert unseen[left].tolist() == list(range(1, len(left) + 1))
    assert target_ranks(scores * 8, targets, seen)[0].tolist() == every.tolist()  # scaling changes nothing
