"""When a canary is stopped, and what is said."""

import pytest

from pipelines.config import CanaryConfig
from pipelines.rollout.guard import CanaryGuard


@pytest.fixture
def guard() -> CanaryGuard:
    return CanaryGuard(CanaryConfig(min_users=20))


def live(guard: CanaryGuard, answers: int, latency_ms: float = 10.0) -> None:
    for number in range(answers):
        guard.live_answer("search", f"live-{number}", ["a"], latency_ms, now_s=0)


def canary(guard: CanaryGuard, answers: int, latency_ms: float = 10.0) -> None:
    for number in range(answers):
        guard.canary_answer("search", f"canary-{number}", ["a"], latency_ms, now_s=0)


def test_a_canary_like_the_live_bundle_is_let_be(guard):
    live(guard, 300)
    canary(guard, 300)
    assert (guard.reason, guard.answers) == (None, 300)


def test_failures_are_noticed_after_a_few(guard):
    canary(guard, 300)
    for _ in range(10):
        guard.canary_failed()
    assert guard.reason == "4 of 304 answers failed, 1% are allowed"


def test_empty_answers_are_told_from_failures(guard):
    for _ in range(10):
        guard.canary_failed(empty=True)
    assert guard.reason == "4 of 4 answers were empty, 1% are allowed"


def test_one_failure_in_thousands_is_let_be(guard):
    for _ in range(5):
        canary(guard, 1_000)
        guard.canary_failed()
    assert guard.reason is None


def test_slow_is_what_takes_much_longer_than_the_live_bundle(guard):
    live(guard, 60, latency_ms=30.0)
    canary(guard, 50, latency_ms=59.0)
    assert guard.reason is None
    canary(guard, 50, latency_ms=61.0)
    assert guard.reason == "7 of 57 answers were slow, 10% are allowed"


@pytest.mark.parametrize(
    ("live_answers", "live_ms", "canary_ms"),
    [
        pytest.param(10, 1.0, 500.0, id="too few to know what is usual"),
        pytest.param(100, 1.0, 19.0, id="below the floor"),
    ],
)
def test_what_is_not_called_slow(guard, live_answers, live_ms, canary_ms):
    live(guard, live_answers, live_ms)
    canary(guard, 100, canary_ms)
    assert guard.reason is None


def test_clicks_that_stay_away_stop_it(guard):
    for number in range(200):
        guard.live_answer("recommend", f"live-{number}", ["a", "b"], 1.0, now_s=0)
        guard.canary_answer("recommend", f"canary-{number}", ["c"], 1.0, now_s=0)
        guard.clicked(f"live-{number}", ["b"], now_s=60)
        if number % 4 == 0:
            guard.clicked(f"canary-{number}", ["c"], now_s=60)
    assert guard.reason is not None
    assert "answers were clicked" in guard.reason
    assert "a drop of 10% is allowed" in guard.reason


def test_a_click_counts_once_soon_and_on_what_was_shown(guard):
    live(guard, 50)
    canary(guard, 50)
    for item, at_s in (("other", 1), ("a", 31 * 60)):
        guard.clicked("live-1", [item], now_s=at_s)
    guard.clicked("nobody", ["a"], now_s=1)
    assert guard._usual.clicks == 0
    for _ in range(2):
        guard.clicked("live-1", ["x", "a"], now_s=1)
    assert (guard._usual.clicks, guard._tried.clicks) == (1, 0)
