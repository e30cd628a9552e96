import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.features.on_demand import (
    CANDIDATE_FEATURES,
    CONTEXT_FEATURES,
    candidate_features,
    context_features,
    item_facts,
)

HOUR, DAY = 3_600, 86_400
MONDAY_9 = 1_767_603_600  # 2026-01-05 09:00 UTC
FACTS = item_facts(
    prices=[1.0, math.e**2, None, 0.0], categories=["tea", "tea", "milk", None], brands=[None, "x", "x", "y"]
)


def context(rows: list[int], times: list[int], now_s: float = MONDAY_9) -> dict[str, float]:
    """Return the features of one moment."""
    found = context_features(
        np.array(rows, np.int64), np.array(times, np.int64), np.array([0, len(rows)]), np.array([now_s]), FACTS
    )
    return {name: float(values[0]) for name, values in found.items()}


def test_hour_and_weekday_are_utc_and_monday_is_zero():
    assert (context([], [])["hour"], context([], [])["weekday"]) == (9, 0)
    assert (context([], [], MONDAY_9 - 10 * HOUR)["hour"], context([], [], MONDAY_9 - 10 * HOUR)["weekday"]) == (23, 6)


def test_the_time_since_the_last_event_and_between_events():
    found = context([0, 0, 1], [MONDAY_9 - 7 * HOUR, MONDAY_9 - 7 * HOUR, MONDAY_9 - 2 * HOUR])

    assert (found["hours_since_last"], found["mean_gap_h"]) == (2, 5)  # a basket is one time


def test_the_price_affinity_halves_in_28_days():
    found = context([1, 0], [MONDAY_9 - 28 * DAY, MONDAY_9])

    assert found["log_price_affinity"] == pytest.approx((0.5 * 2 + 1 * 0) / 1.5)


def test_items_without_a_price_or_not_in_the_catalogue_say_nothing_of_prices():
    assert context([1, 2, 3, -1], [1, 2, 3, 4])["log_price_affinity"] == pytest.approx(2)
    assert math.isnan(context([2, -1], [1, 2])["log_price_affinity"])


def test_a_stranger_has_only_the_time():
    found = context([], [])

    assert tuple(found) == CONTEXT_FEATURES
    assert all(math.isnan(found[name]) for name in ("hours_since_last", "mean_gap_h", "log_price_affinity"))


def test_candidates_are_compared_with_what_was_liked():
    # Tea of 28 days ago counts half, milk of brand x whole: shares 1/3 and 2/3.
    rows, times = np.array([0, 2]), np.array([MONDAY_9 - 28 * DAY, MONDAY_9])
    found = candidate_features(rows, times, np.array([0, 1, 2, 3]), FACTS)

    assert found.shape == (4, len(CANDIDATE_FEATURES))
    np.testing.assert_allclose(
        found, [[0, 1 / 3, np.nan], [2, 1 / 3, 1], [np.nan, 2 / 3, 1], [np.nan, np.nan, 0]], equal_nan=True
    )


def test_candidates_of_a_stranger_are_unknown():
    found = candidate_features(np.zeros(0, np.int64), np.zeros(0, np.int64), np.array([0, 3]), FACTS)

    assert np.isnan(found).all()


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 10**6)), max_size=5), st.integers(10**6, 10**7)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_many_moments_at_once_give_what_each_gives_alone(moments):
    """Training computes all rows at once, a request computes one."""
    histories = [sorted(history, key=lambda entry: entry[1]) for history, _ in moments]
    flat = [entry for history in histories for entry in history]
    together = context_features(
        np.array([row for row, _ in flat], np.int64),
        np.array([time for _, time in flat], np.int64),
        np.cumsum([0, *(len(history) for history in histories)]),
        np.array([now for _, now in moments], np.float64),
        FACTS,
    )
    for place, (history, (_, now)) in enumerate(zip(histories, moments, strict=True)):
        alone = context([row for row, _ in history], [time for _, time in history], now)
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][place], value, equal_nan=True, err_msg=name)
