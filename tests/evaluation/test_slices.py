"""Slices, worked out by hand."""

import numpy as np

from pipelines.evaluation.slices import cold_items, history_slices, tail_items


def test_items_with_five_events_are_cold():
    assert cold_items(np.asarray([0, 5, 6])).tolist() == [True, True, False]


def test_the_head_is_the_fewest_items_with_four_fifths_of_the_events():
    # 10 events: 5 + 2 are 70 %, with the next 2 it is 90 %, so three items are the head
    assert tail_items(np.asarray([1, 5, 2, 2], np.float32)).tolist() == [True, False, False, False]
    # 8 of 10 are exactly the share: the head ends there
    assert tail_items(np.asarray([8, 1, 1], np.float32)).tolist() == [False, True, True]


def test_histories_of_five_are_short_and_of_more_than_twenty_long():
    slices = history_slices(np.asarray([5, 6, 20, 21]))
    assert slices["short histories"].tolist() == [True, False, False, False]
    assert slices["long histories"].tolist() == [False, False, False, True]
