"""Popularity as it was known on a day, worked out by hand."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.retrieval.trends import TREND_FEATURES, ItemTrends, build_trends, no_trends

DAY = 86_400


@pytest.fixture
def trends() -> ItemTrends:
    # item 0: twice on day 10 and once on day 40; item 1: once on day 20; item 2: never
    return build_trends(np.array([0, 0, 0, 1]), np.array([10, 10, 40, 20]) * DAY + 5, 3)


def test_a_count_halves_with_age(trends):
    fast = np.expm1(trends.at(40 * DAY)[:, 0])
    np.testing.assert_allclose(fast, [2 * 0.5, 0.5 ** (20 / 30), 0], rtol=1e-5)
    np.testing.assert_allclose(np.expm1(trends.at(41 * DAY)[0, 0]), (1 + 1) * 0.5 ** (1 / 30), rtol=1e-5)
    np.testing.assert_allclose(
        np.expm1(trends.at(70 * DAY)[0, 1]), (2 * 0.5 ** (30 / 180) + 1) * 0.5 ** (30 / 180), rtol=1e-5
    )


def test_the_day_itself_and_what_comes_later_are_not_known(trends):
    assert trends.at(10 * DAY + 80_000).tolist() == [[0] * len(TREND_FEATURES)] * 3
    np.testing.assert_allclose(np.expm1(trends.at(40 * DAY + 80_000)[0, 2]), 2, rtol=1e-6)


def test_total_and_age(trends):
    of_item = dict(zip(TREND_FEATURES, np.expm1(trends.at(50 * DAY)).T, strict=True))
    np.testing.assert_allclose(of_item["log_total"], [3, 1, 0], rtol=1e-5)
    np.testing.assert_allclose(of_item["log_age_days"], [40, 30, 0], rtol=1e-5)


def test_users_are_counted_once_and_first_events_fade():
    # item 0: user 7 on days 10 and 40, user 8 on day 40; item 1: user 7 on day 40
    items, users = np.array([0, 0, 0, 1]), np.array([7, 7, 8, 7])
    trends = build_trends(items, np.array([10, 40, 40, 40]) * DAY, 2, users=users)
    then, later = (dict(zip(TREND_FEATURES, np.expm1(trends.at(day * DAY)).T, strict=True)) for day in (40, 70))
    np.testing.assert_allclose(then["log_buyers"], [1, 0], rtol=1e-5)
    np.testing.assert_allclose(later["log_buyers"], [2, 1], rtol=1e-5)
    np.testing.assert_allclose(later["log_total"], [3, 1], rtol=1e-5)
    np.testing.assert_allclose(then["log_firsts"], [0.5, 0], rtol=1e-5)
    np.testing.assert_allclose(later["log_firsts"], [(0.5 + 1) * 0.5, 0.5], rtol=1e-5)
    np.testing.assert_allclose(later["log_per_buyer"], [(1 + 3) / (1 + 2) - 1, 0], rtol=1e-5)
    np.testing.assert_allclose(later["log_per_first"], [(1 + 1.25) / (1 + 0.75) - 1, 0], rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_known_of_a_day_is_what_counting_by_hand_gives(seed):
    chance = np.random.default_rng(seed)
    items, users = chance.integers(0, 4, 40), chance.integers(0, 5, 40)
    times = chance.integers(0, 30 * DAY, 40)
    trends = build_trends(items, times, 5, users=users)
    for day in (0, 3, 15, 29, 60):
        found = np.expm1(trends.at(day * DAY + chance.integers(DAY)))
        for item in range(5):
            known = [(time, user) for time, user, of in zip(times, users, items, strict=True) if of == item]
            known = sorted((time, user) for time, user in known if time < day * DAY)
            ages = [day - time // DAY for time, _ in known]
            first_ages = [day - time // DAY for time, _ in {user: (time, user) for time, user in known[::-1]}.values()]
            fast, firsts = (sum(0.5 ** (age / 30) for age in some) for some in (ages, first_ages))
            slow, total, buyers = sum(0.5 ** (age / 180) for age in ages), len(ages), len(first_ages)
            per_buyer, per_first = (1 + total) / (1 + buyers) - 1, (1 + fast) / (1 + firsts) - 1
            expected = [fast, slow, total, buyers, firsts, per_buyer, per_first, max(ages, default=0)]
            np.testing.assert_allclose(found[item], expected, rtol=1e-4, atol=1e-5)


def test_a_first_event_is_the_oldest_in_whatever_order_events_come():
    trends = build_trends(np.array([0, 0]), np.array([40, 10]) * DAY, 1, users=np.array([7, 7]))
    assert np.expm1(trends.at(20 * DAY)[0, TREND_FEATURES.index("log_buyers")]) == pytest.approx(1)


def test_some_items_can_be_asked_for(trends):
    every = trends.at(50 * DAY)
    assert trends.at(50 * DAY, np.array([2, 0])).tolist() == every[[2, 0]].tolist()


def test_old_days_are_added_up_and_later_values_stay(trends):
    cut = build_trends(np.array([0, 0, 0, 1]), np.array([10, 10, 40, 20]) * DAY, 3, since_s=35.0 * DAY)
    assert len(cut.keys) == 3
    assert cut.at(60 * DAY).tolist() == trends.at(60 * DAY).tolist()
    many = build_trends(np.zeros(9, np.int64), np.arange(9) * DAY, 1, since_s=7.0 * DAY)
    assert (many.keys % 2**24).tolist() == [6, 7, 8]


def test_nothing_happened():
    assert no_trends(2).at(DAY).tolist() == [[0] * len(TREND_FEATURES)] * 2


def test_new_items_have_no_past(trends):
    assert trends.grown(1).at(50 * DAY)[:3].tolist() == trends.at(50 * DAY).tolist()
    assert trends.grown(1).at(50 * DAY)[3].tolist() == [0] * len(TREND_FEATURES)


def test_written_and_read(trends, tmp_path):
    trends.save(tmp_path)
    np.testing.assert_allclose(ItemTrends.load(tmp_path).at(50 * DAY), trends.at(50 * DAY), rtol=1e-3)
    np.save(tmp_path / "fast.npy", np.ones(1, np.float32))
    with pytest.raises(DataError, match="do not fit together"):
        ItemTrends.load(tmp_path)
