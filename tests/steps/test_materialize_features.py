from datetime import timedelta

import pytest

from pipelines.config import FeatureConfig
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.steps.build_features import build_features
from pipelines.steps.materialize_features import materialize_features
from pipelines.stores.event_log import EventLog
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.online_features import OnlineFeatures
from tests.toys.event_tables import day, event, tables_with

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis")

UNTIL, NOW = day(3), day(5)


class Shop:
    """Headrace's stores below one folder, at a fixed time."""

    def __init__(self, home) -> None:
        places = Places(home)
        events = [event("u", "a", day(1)), event("v", "a", day(2))]
        self.build = build_features(
            tables=tables_with(home, events, until=UNTIL),
            features_dir=places.features,
            config=FeatureConfig(),
            until=UNTIL,
            progress=SilentProgress(),
        )
        self.feature_store = FeatureStoreClient(places=places, environment={})
        self.online = OnlineFeatures(places.feast, environment={}, clock=lambda: NOW)
        self.event_log = EventLog(places.event_log, clock=lambda: NOW)

    def materialize(self):
        return materialize_features(
            self.build,
            feature_store=self.feature_store,
            online=self.online,
            event_log=self.event_log,
            now=NOW,
            progress=SilentProgress(),
        )

    def histories(self) -> dict[str, list[str]]:
        return {user: self.online.read_user(user).item_ids for user in ("u", "v", "w")}


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


def test_the_service_finds_what_was_built(shop):
    assert shop.materialize().rows == {"user_activity": 2, "user_history": 2, "item_popularity": 1}
    assert shop.histories() == {"u": ["a"], "v": ["a"], "w": []}


def test_running_twice_ends_in_the_same_state(shop):
    first = shop.materialize()
    before = shop.histories()

    assert shop.materialize() == first
    assert shop.histories() == before


def test_events_pushed_since_the_build_survive(shop):
    shop.materialize()
    pushed = [event("u", "b", day(4), arrived=day(4)), event("w", "c", day(4), kind="view", arrived=day(4))]
    shop.event_log.append(pushed)
    for one in pushed:
        shop.online.push_events(one["user_id"], [one])

    shop.materialize()

    assert shop.histories() == {"u": ["a", "b"], "v": ["a"], "w": ["c"]}


def test_accepted_events_whose_push_failed_are_made_up_for(shop):
    shop.event_log.append([event("u", "b", day(4), arrived=day(4)), event("u", "c", day(4.5), arrived=day(4.5))])

    shop.materialize()

    assert shop.histories()["u"] == ["a", "b", "c"]


def test_events_that_the_build_knows_are_not_pushed_again(shop):
    """They may have been rejected since: the tables decide."""
    shop.event_log.append([event("u", "rejected", day(2), arrived=UNTIL - timedelta(seconds=1))])

    shop.materialize()

    assert shop.histories()["u"] == ["a"]
