"""Slices, worked out by hand."""

import numpy as np
import pytest

from pipelines.evaluation.scripts import NO_SCRIPT, script_of
from pipelines.evaluation.slices import category_slices, cold_items, history_slices, script_slices, tail_items


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


def test_the_categories_with_the_most_targets_are_slices():
    targets = np.asarray([0, 0, 1, 2, 2, 2, 3, -1])  # 3 of B, 3 of A and C together: A has 3, C has 1
    slices = category_slices(["A", "A", "B", None, "C"], targets, most=1)
    assert {name: kept.tolist() for name, kept in slices.items()} == {"category A": [True, True, False, False, False]}
    assert list(category_slices(["A", "A", "B", None, "C"], targets, most=9)) == ["category A", "category B"]
    assert category_slices(["A"], np.asarray([0]), most=0) == {}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        pytest.param("red apple 500 g", "latin", id="ascii"),
        pytest.param("Äpfel für Ümläute", "latin", id="umlauts"),
        pytest.param("красное яблоко x2", "cyrillic", id="cyrillic"),
        pytest.param("红苹果", "han", id="han"),
        pytest.param("りんごジュース", "kana", id="kana"),
        pytest.param("사과", "hangul", id="hangul"),
        pytest.param("12 %", NO_SCRIPT, id="no letter"),
        pytest.param("№ 5 — 7", NO_SCRIPT, id="no letter beyond ascii"),
    ],
)
def test_the_script_of_most_letters_counts(text, script):
    assert script_of(text) == script


def test_scripts_are_slices_where_there_are_two():
    assert script_slices(["red", "green"]) == {}
    slices = script_slices(["red", "红"])
    assert {name: kept.tolist() for name, kept in slices.items()} == {
        "han script": [False, True],
        "latin script": [True, False],
    }
