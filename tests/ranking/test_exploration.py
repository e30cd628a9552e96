"""Explored slots: propensities against all outcomes, and against frequencies."""

from collections import Counter

import pytest

from pipelines.ranking.exploration import explore


def test_propensities_of_one_slot():
    seeds = [str(seed) for seed in range(200)]
    for seed in seeds:
        drawn = explore([4], [7, 8, 9], 0.3, seed)
        assert drawn.propensities == {4: pytest.approx(0.3 / 3 if drawn.items else 0.7)}
        assert set(drawn.items.values()) <= {7, 8, 9}
    assert {bool(explore([4], [7], 0.3, seed).items) for seed in seeds} == {True, False}


def test_the_same_seed_draws_the_same():
    first = explore([1, 2, 3], range(10, 30), 0.5, "a seed")
    assert first == explore([1, 2, 3], range(10, 30), 0.5, "a seed")
    assert any(first.items != explore([1, 2, 3], range(10, 30), 0.5, str(seed)).items for seed in range(5))


@pytest.mark.parametrize(("share", "explored"), [(0.0, 0), (1.0, 2)])
def test_never_and_always(share, explored):
    drawn = explore([0, 5], [7, 8, 9], share, "seed")
    assert len(drawn.items) == explored
    assert len(set(drawn.items.values())) == explored
    assert list(drawn.propensities.values()) == pytest.approx([1.0 if share == 0 else 1 / 3] * 2)


def test_of_more_slots_than_reserve_only_the_first_are_explored():
    assert explore([0, 1], [7], 1.0, "seed").items == {0: 7}
    assert explore([0, 1], [], 1.0, "seed").propensities == {}


def test_without_a_seed_nothing_is_drawn_and_the_chances_are_known():
    drawn = explore([0, 1], [7, 8], 0.25, None)
    assert (drawn.items, drawn.propensities) == ({}, {0: 0.75, 1: 0.75})


def test_frequencies_are_the_propensities():
    """Two slots that share a reserve of four: each outcome of each slot, over 20,000 seeds, within 5 deviations."""
    n, share, reserve = 20_000, 0.4, [7, 8, 9, 10]
    shown = {slot: Counter() for slot in (2, 5)}
    expected = {}
    for seed in range(n):
        drawn = explore([2, 5], reserve, share, str(seed))
        for slot in (2, 5):
            item = drawn.items.get(slot, -slot)
            shown[slot][item] += 1
            expected[slot, item] = drawn.propensities[slot]
    assert len(expected) == 2 * (len(reserve) + 1)
    for (slot, item), propensity in expected.items():
        deviation = (n * propensity * (1 - propensity)) ** 0.5
        assert abs(shown[slot][item] - n * propensity) < 5 * deviation, (slot, item)
    assert sum(expected[2, item] for item in [*reserve, -2]) == pytest.approx(1)
