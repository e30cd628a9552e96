"""Intervals by resampling users."""

import numpy as np
import pytest

from pipelines.evaluation.bootstrap import UserBootstrap


def test_the_mean_is_over_rows_that_count():
    bootstrap = UserBootstrap(np.asarray(["a", "a", "b", "c"]), samples=200, seed=1)
    assert bootstrap.mean(np.asarray([1.0, 0.0, np.nan, 0.5])).value == 0.5


def test_a_constant_has_an_interval_of_no_width():
    metric = UserBootstrap(np.arange(10), samples=200, seed=1).mean(np.full(10, 0.25))
    assert (metric.value, metric.low, metric.high) == (0.25, 0.25, 0.25)


def test_one_user_gives_no_interval():
    metric = UserBootstrap(np.asarray(["a", "a"]), samples=200, seed=1).mean(np.asarray([0.0, 1.0]))
    assert (metric.value, metric.low, metric.high) == (0.5, None, None)


def test_no_row_gives_no_number():
    assert UserBootstrap(np.asarray(["a", "b"]), samples=200, seed=1).mean(np.full(2, np.nan)) is None


def test_the_interval_of_a_fair_coin_is_that_of_the_normal_distribution():
    values = np.tile([0.0, 1.0], 200)  # 400 users, standard error 0.5 / sqrt(400) = 0.025
    metric = UserBootstrap(np.arange(400), samples=4_000, seed=1).mean(values)
    assert metric.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert metric.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


def test_rows_of_one_user_are_drawn_together():
    values = np.repeat(np.tile([0.0, 1.0], 50), 16)
    users = np.repeat(np.arange(100), 16)
    clustered = UserBootstrap(users, samples=2_000, seed=1).mean(values)
    single = UserBootstrap(np.arange(1_600), samples=2_000, seed=1).mean(values)
    assert (clustered.high - clustered.low) / (single.high - single.low) == pytest.approx(4, rel=0.1)  # sqrt(16)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)
    one, two = (UserBootstrap(np.arange(50), samples=200, seed=7).mean(values) for _ in range(2))
    assert one == two


def test_a_gain_that_every_user_has_is_certain_although_users_differ():
    values = np.random.default_rng(0).random(50)
    gain = UserBootstrap(np.arange(50), samples=200, seed=7).mean((values + 0.1) - values)
    assert gain.low == pytest.approx(0.1)


def test_very_many_users_are_drawn_in_groups():
    values = np.random.default_rng(0).random(40_000)
    found = UserBootstrap(np.arange(40_000), samples=200, seed=1).mean(values)
    assert found.value == pytest.approx(values.mean())
    # the error of a mean of 40,000 even numbers in [0, 1] is 0.289 / 200
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.289 / 200, rel=0.25)
