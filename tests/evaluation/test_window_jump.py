"""When a gain is larger on the test window than it can honestly be."""

import numpy as np
import pytest

from pipelines.evaluation.window_jump import window_jump

USERS = np.asarray([f"u{place}" for place in range(50)])


def jump(test, validation):
    return window_jump(np.asarray(test), USERS[: len(test)], np.asarray(validation), USERS, samples=300, seed=1)


def test_the_same_gain_on_both_windows_is_no_jump():
    gains = np.linspace(0, 0.2, 50)
    found = jump(gains, gains)
    assert found.value == 0
    assert found.low < 0 < found.high


def test_rows_that_are_known_by_heart_stand_out():
    found = jump(np.full(50, 0.9), np.linspace(0, 0.2, 50))
    assert found.value == pytest.approx(0.8)
    assert 0.7 < found.low < found.value < found.high < 0.9


def test_the_interval_is_that_of_both_windows_together():
    noisy = np.tile([0.0, 1.0], 25)
    found = jump(noisy, noisy)
    one = jump(np.full(50, 0.5), noisy)
    assert found.high - found.low == pytest.approx(2 * (one.high - one.low), rel=0.05)


def test_a_window_without_rows_that_count_says_nothing():
    assert jump(np.full(50, np.nan), np.zeros(50)) is None
    assert jump([0.5], np.zeros(50)).low is None  # one user
