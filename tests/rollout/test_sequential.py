"""Numbers worked out by hand, and what the tests promise, by simulation."""

import math
import random

import pytest

from pipelines.rollout.sequential import DropTest, RateAlarm, UserRate


def test_the_evidence_is_the_average_of_the_cusums():
    """Bound 0.1: the rates are 0.15, 0.2, 0.4, 0.8 and 0.95."""
    alarm = RateAlarm(0.1, answers_between_alarms=200)
    alarm.add(False)
    assert alarm.evidence == pytest.approx((0.85 + 0.8 + 0.6 + 0.2 + 0.05) / 0.9 / 5)
    assert not alarm.add(True)
    assert alarm.evidence == pytest.approx((1.5 + 2 + 4 + 8 + 9.5) / 5)
    assert not alarm.add(True)
    assert alarm.evidence == pytest.approx((2.25 + 4 + 16 + 64 + 90.25) / 5)
    assert alarm.add(True)
    assert (alarm.answers, alarm.bad) == (4, 3)


def test_a_long_good_time_does_not_delay_the_alarm():
    def answers_until_alarm(good_before: int) -> int:
        alarm = RateAlarm(0.01, answers_between_alarms=1e6)
        for _ in range(good_before):
            alarm.add(False)
        return next(number for number in range(1, 100) if alarm.add(True))

    assert answers_until_alarm(0) == answers_until_alarm(20_000) < 6


def test_at_the_bound_false_alarms_are_as_rare_as_promised():
    chooser = random.Random(5)

    def run_length(rate: float) -> int:
        alarm = RateAlarm(0.1, answers_between_alarms=100)
        return next(number for number in range(1, 10_000) if alarm.add(chooser.random() < rate))

    lengths = [run_length(0.1) for _ in range(200)]
    assert sum(lengths) / len(lengths) >= 100
    late = [run_length(0.5) for _ in range(200)]
    assert sum(late) / len(late) < 20


def test_the_rate_of_users_whose_answers_are_alike():
    rate = UserRate()
    rate.add("a", answers=1)
    rate.add("b", answers=2)
    rate.add("a", answers=1, clicks=1)
    assert (rate.users, rate.answers, rate.clicks, rate.rate) == (2, 4, 1, 0.25)
    assert rate.variance == pytest.approx(((1 - 0.25 * 2) ** 2 + (0 - 0.25 * 2) ** 2) / 4**2)


def test_a_user_that_is_forgotten_stays_in_the_sums():
    rate = UserRate(max_users=1)
    for user in ("a", "b", "a"):
        rate.add(user, answers=1, clicks=1)
    assert (rate.answers, rate.clicks) == (3, 3)
    assert UserRate().variance == math.inf


def side(users: int, clicked: int) -> UserRate:
    """Return users with one answer each, the first of whom clicked."""
    rate = UserRate()
    for number in range(users):
        rate.add(str(number), answers=1, clicks=int(number < clicked))
    return rate


def test_the_evidence_of_a_drop():
    usual, tried = side(100, 50), side(100, 10)
    drop, variance, mixture = 0.9 * 0.5 - 0.1, 0.81 * 0.25 / 100 + 0.09 / 100, 0.1 * 0.5
    total = variance + mixture**2
    expected = math.sqrt(variance / total) * math.exp(drop**2 * mixture**2 / (2 * variance * total))
    assert DropTest(0.1, alpha=0.01, min_users=50).evidence(usual, tried) == pytest.approx(expected)
    assert expected > 100
    assert DropTest(0.1, alpha=0.01, min_users=50).is_lower(usual, tried)


@pytest.mark.parametrize(
    ("usual", "tried"),
    [
        pytest.param(side(49, 40), side(100, 0), id="too few users"),
        pytest.param(side(100, 50), side(100, 60), id="higher"),
        pytest.param(side(100, 50), side(100, 46), id="within the bound"),
        pytest.param(side(100, 0), side(100, 0), id="nobody clicks"),
    ],
)
def test_no_evidence_where_nothing_is_wrong(usual, tried):
    assert DropTest(0.1, alpha=0.01, min_users=50).evidence(usual, tried) == 0


def first_alarm(
    chooser: random.Random, usual_rate: float, tried_rate: float, *, looks: int, alpha: float
) -> int | None:
    """Simulate users who answer alike: each has a taste of their own around the rate; look after every answer."""
    usual, tried, test = UserRate(), UserRate(), DropTest(0.1, alpha=alpha, min_users=50)
    for look in range(looks):
        for rate, wanted in ((usual, usual_rate), (tried, tried_rate)):
            user = str(chooser.randrange(100))
            taste = random.Random(user).uniform(0.5, 1.5) * wanted
            rate.add(user, answers=1, clicks=int(chooser.random() < taste))
        if test.is_lower(usual, tried):
            return look
    return None


@pytest.mark.slow
def test_however_often_it_looks_false_alarms_stay_below_alpha():
    chooser = random.Random(7)
    alarms = [first_alarm(chooser, 0.3, 0.27, looks=1_000, alpha=0.05) for _ in range(100)]
    assert sum(alarm is not None for alarm in alarms) <= 0.05 * 100


@pytest.mark.slow
def test_half_the_clicks_are_noticed():
    chooser = random.Random(7)
    alarms = [first_alarm(chooser, 0.3, 0.15, looks=1_500, alpha=0.01) for _ in range(20)]
    assert all(alarm is not None for alarm in alarms)
