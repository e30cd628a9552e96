"""A canary and a shadow beside the live bundle, on toy bundles whose answers differ."""

import time
from datetime import UTC, datetime

import numpy as np
import pytest

from bentos.recommender.answering.answers import Answers
from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.bundles.trials import Trials
from bentos.recommender.contract.requests import (
    EventBody,
    EventsBody,
    ExplainBody,
    RecommendBody,
    ReloadBody,
    RequestError,
    SearchBody,
    SimilarBody,
)
from pipelines.config import CanaryConfig, ServingConfig, ShadowConfig
from pipelines.places import Places
from pipelines.pseudonyms import Pseudonymizer
from pipelines.rollout.plan import RolloutPlan, Trial
from pipelines.stores.event_log import EventLog
from pipelines.stores.rollout_file import read_stop, write_plan
from pipelines.stores.served_requests import ServedRequestsLog, read_served_requests
from pipelines.stores.serving_pointer import ServingPointer, write_pointer
from pipelines.stores.shadow_answers import read_shadow_answers
from tests.toys.toy_bundle import User, write_toy_bundle

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OTHERS_POPULAR = np.array([9.0, 0.0, 0.0, 0.0, 8.0, 0.0], np.float32)
"""In the toy bundle d, c and b are popular; in the tried one a and e."""


class NobodyKnown:
    is_shared = False

    def stamp(self, user_id: str) -> None:
        return None

    def read_user(self, user_id: str) -> User:
        return User()

    def push_at_once(self, events) -> None:
        """Pushes are waited for on another thread."""

    def push_events(self, events) -> dict:
        return {}


class Shop:
    """The service's answers over bundle b1, with b2 to be tried."""

    def __init__(self, home) -> None:
        self.places = Places(home)
        write_toy_bundle(self.places.bundles / "b1")
        write_toy_bundle(self.places.bundles / "b2", popularity=OTHERS_POPULAR)
        self.point_to("b1")
        self.trials = Trials(self.places, CanaryConfig(min_users=5), ShadowConfig(queue_size=5), clock=lambda: NOW)
        self.live = LiveBundle(self.places, {}, beside=self.trials.names)
        self.answers = Answers(
            live=self.live,
            features=NobodyKnown(),
            event_log=EventLog(home / "log"),
            pseudonymizer=Pseudonymizer(b"a key for tests, long enough"),
            serving=ServingConfig(feature_timeout_ms=10_000),
            requests=ServedRequestsLog(self.places.served_requests, share=1, keep_days=7),
            trials=self.trials,
            now=lambda: NOW,
        )

    def point_to(self, bundle: str) -> None:
        folder = self.places.bundles / bundle
        write_pointer(self.places.current_bundle, ServingPointer(bundle=bundle, folder=folder, deployed_at=NOW))

    def plan(self, **trials: float) -> None:
        """Try b2, as `canary=0.5` or `shadow=1` say, and follow the plan."""
        planned = {
            kind: Trial(id=f"b2-{kind}", bundle="b2", share=share, started_at=NOW) for kind, share in trials.items()
        }
        write_plan(self.places.rollout, RolloutPlan(**planned))
        self.trials.refresh()

    def recommend(self, user: str) -> tuple[str, str]:
        answer = self.answers.recommend(RecommendBody(user_id=user, k=1))
        assert not answer["degraded"]
        return answer["model_version"], answer["items"][0]["item_id"]


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    shop.answers.close()


def test_a_share_of_the_users_is_answered_by_the_canary_and_each_answer_says_by_whom(shop):
    users = [f"user-{number}" for number in range(200)]
    assert {shop.recommend(user) for user in users} == {("b1", "d")}
    shop.plan(canary=0.25)
    answered = {user: shop.recommend(user) for user in users}
    by_canary = [user for user, answer in answered.items() if answer == ("b2", "a")]
    assert set(answered.values()) == {("b1", "d"), ("b2", "a")}
    assert 25 < len(by_canary) < 75
    assert answered == {user: shop.recommend(user) for user in users}
    assert shop.answers.search(SearchBody(query="milk"))["model_version"] == "b1"
    assert shop.trials.names() == {"canary": "b2", "shadow": None}
    shop.plan()
    assert {shop.recommend(user) for user in users} == {("b1", "d")}


def test_another_share_goes_on_with_the_same_guard(shop):
    shop.plan(canary=0.5)
    guard = shop.trials.canary.guard
    shop.plan(canary=1.0)
    assert shop.trials.canary.guard is guard
    assert shop.recommend("anybody") == ("b2", "a")


def test_a_user_of_the_canary_is_explained_what_the_canary_answers(shop):
    users = [f"user-{number}" for number in range(20)]
    shop.plan(canary=0.5)
    answered = {user: shop.recommend(user) for user in users}
    assert len(set(answered.values())) == 2
    for user, (bundle, item) in answered.items():
        explanation = shop.answers.explain(ExplainBody(user_id=user, item_id=item))
        assert (explanation["model_version"], explanation["items"][0]["rank"]) == (bundle, 1)


def test_a_reload_of_a_bundle_that_cannot_be_opened_says_why(shop):
    (shop.places.bundles / "b2" / "encoder.onnx").write_bytes(b"")
    shop.point_to("b2")
    with pytest.raises(
        RequestError, match=r"^Bundle b1 goes on answering: encoder.onnx of the bundle .*changed"
    ) as told:
        shop.answers.reload(ReloadBody())
    assert told.value.status == 409
    shop.point_to("b1")
    assert not shop.answers.reload(ReloadBody())["changed"]


def test_where_the_canary_fails_the_live_bundle_answers_and_the_guard_stops_it(shop, monkeypatch):
    shop.plan(canary=1.0)
    monkeypatch.setattr(shop.trials.canary.serving.bundle, "popularity_score", None)
    assert [shop.recommend(f"user-{number}")[0] for number in range(10)] == ["b1"] * 10
    assert shop.trials.canary is None
    shop.trials.refresh()
    stop = read_stop(shop.places.canary_stops, "b2-canary")
    assert stop is not None
    assert (stop.reason, stop.stopped_at) == ("4 of 4 answers failed, 1% are allowed", NOW)


def test_where_the_canary_finds_nothing_the_live_bundle_answers(shop, monkeypatch):
    shop.plan(canary=1.0)
    monkeypatch.setattr(shop.trials.canary.serving.bundle, "available", np.zeros(6, bool))
    assert {shop.recommend(f"user-{number}") for number in range(10)} == {("b1", "d")}
    shop.trials.refresh()
    stop = read_stop(shop.places.canary_stops, "b2-canary")
    assert stop is not None
    assert stop.reason == "4 of 4 answers were empty, 1% are allowed"


def test_an_item_that_only_the_live_bundle_has_is_no_failure_of_the_canary(shop, monkeypatch):
    shop.plan(canary=1.0)
    monkeypatch.setattr(shop.trials.canary.serving.bundle, "_rows", {})
    for _ in range(10):
        answer = shop.answers.recommend(RecommendBody(user_id="ann", seed_items=["a"]))
        assert answer["model_version"] == "b1"
    assert shop.trials.canary.guard.answers == 0


def test_a_canary_that_was_stopped_stays_out_after_a_restart(shop):
    shop.plan(canary=1.0)
    shop.trials.canary.guard.reason = "slow"
    shop.trials.stop_if_bad(shop.trials.canary)
    shop.trials.refresh()
    again = Trials(shop.places, CanaryConfig(), ShadowConfig())
    again.refresh()
    assert again.canary is None


def test_a_canary_that_cannot_be_opened_is_stopped_at_once(shop):
    (shop.places.bundles / "b2" / "encoder.onnx").unlink()
    shop.plan(canary=1.0)
    assert shop.recommend("ann") == ("b1", "d")
    stop = read_stop(shop.places.canary_stops, "b2-canary")
    assert stop is not None
    assert stop.reason == "the bundle cannot be opened"


def test_a_bundle_that_went_live_is_no_canary_any_more(shop):
    shop.plan(canary=1.0)
    shop.point_to("b2")
    assert shop.live.refresh()
    assert shop.recommend("ann") == ("b2", "a")
    assert shop.trials.canary.guard.answers == 0


def test_clicks_on_what_was_shown_reach_the_guard(shop):
    shop.plan(canary=0.5)
    users = [f"user-{number}" for number in range(40)]
    shown = {user: shop.recommend(user) for user in users}
    events = [EventBody(user_id=user, event_type="cart", item_id=item) for user, (_, item) in shown.items()]
    shop.answers.events(EventsBody(events=events))
    guard = shop.trials.canary.guard
    by_canary = sum(version == "b2" for version, _ in shown.values())
    assert (guard._tried.clicks, guard._usual.clicks) == (by_canary, 40 - by_canary)


def wait_for_answers(shop, count: int) -> list[dict]:
    deadline = time.monotonic() + 10
    while len(rows := read_shadow_answers(shop.places.shadow_answers)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return rows


def test_a_shadow_is_asked_and_never_answers(shop):
    shop.plan(shadow=1.0)
    shop.trials.start()
    assert shop.recommend("ann") == ("b1", "d")
    [row] = wait_for_answers(shop, 1)
    assert (row["call"], row["live"], row["shadow"], row["error"]) == ("recommend", "b1", "b2", "")
    assert (row["live_items"], row["shadow_items"]) == (["d"], ["a"])
    assert row["live_ms"] > 0
    assert row["shadow_ms"] > 0


def test_what_fails_in_the_shadow_is_written_and_nothing_else(shop, monkeypatch):
    shop.plan(shadow=1.0)
    monkeypatch.setattr(shop.trials.shadow.serving.bundle, "_rows", {})
    shop.trials.start()
    assert shop.answers.similar(SimilarBody(item_id="a"))["model_version"] == "b1"
    [row] = wait_for_answers(shop, 1)
    assert row["error"].startswith("RequestError: `item_id`")


def test_what_does_not_fit_into_the_queue_is_counted_and_nobody_waits(shop):
    shop.plan(shadow=1.0)  # nobody asks: the threads have not started
    for number in range(8):
        shop.recommend(f"user-{number}")
    assert shop.trials.dropped == 3


def test_requests_are_kept_for_the_next_bundle(shop):
    shop.answers.search(SearchBody(query="milk", k=2, user_id="ann", timings=True))
    shop.answers.similar(SimilarBody(item_id="a"))
    shop.answers.close()
    first, second = read_served_requests(shop.places.served_requests, limit=9)
    assert (first.call, first.body, first.answered, first.user is not None) == (
        "search",
        {"query": "milk", "k": 2},
        2,
        True,
    )
    assert (second.call, second.body, second.user) == ("similar", {"item_id": "a"}, None)
