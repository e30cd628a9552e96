from datetime import timedelta

import pytest

from pipelines.schemas import Materialization
from pipelines.stores.online_features import UserFeatures
from tests.toys.event_tables import day, event
from tests.toys.live_shop import LiveShop

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis")

UNTIL, NOW = day(3), day(5)
EVENTS = [event("u", "a", day(1)), event("v", "a", day(2))]
EVERYBODY = ("u", "v", "w")


@pytest.fixture
def shop(tmp_path) -> LiveShop:
    return LiveShop(tmp_path, EVENTS, until=UNTIL)


def histories(shop: LiveShop) -> dict[str, list[str]]:
    return {user: shop.online.read_user(user).item_ids for user in EVERYBODY}


def known(shop: LiveShop) -> dict[str, UserFeatures]:
    return {user: shop.online.read_user(user) for user in EVERYBODY}


def numbers(features: UserFeatures) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in features.activity.items()}


def loaded_anew(shop: LiveShop) -> dict[str, UserFeatures]:
    """Return what everybody's features are in an online store that is made from nothing."""
    shop.empty_online_store()
    assert shop.materialize().complete
    return known(shop)


def test_the_service_finds_what_was_built(shop):
    written = {"user_activity": 2, "user_history": 2, "item_statistics": 1, "item_prices": 0}

    assert shop.materialize() == Materialization(until=UNTIL, rows=written, complete=True)
    assert histories(shop) == {"u": ["a"], "v": ["a"], "w": []}


def test_a_second_run_has_nothing_to_write(shop):
    shop.materialize()
    before = known(shop)
    nothing = {"user_activity": 0, "user_history": 0, "item_statistics": 0, "item_prices": 0}

    assert shop.materialize() == Materialization(until=UNTIL, rows=nothing, complete=False)
    assert known(shop) == before


@pytest.mark.slow
def test_only_users_with_something_new_are_written(shop):
    shop.materialize()
    shop.now = day(4)
    shop.ingest([event("v", "b", day(3.5))])

    assert shop.materialize().rows["user_history"] == 1
    assert histories(shop) == {"u": ["a"], "v": ["a", "b"], "w": []}
    assert known(shop) == loaded_anew(shop)


@pytest.mark.slow
def test_a_late_event_reaches_a_user_who_is_quiet_since(shop):
    """Its row is newer by arrival and as old as before by event time."""
    shop.materialize()
    shop.now = day(4)
    shop.ingest([event("u", "earlier", day(0.5), arrived=day(3.5))])

    assert shop.materialize().rows["user_history"] == 1
    assert histories(shop)["u"] == ["earlier", "a"]
    assert known(shop) == loaded_anew(shop)


def test_events_pushed_since_the_build_survive(shop):
    shop.materialize()
    shop.accept(event("u", "b", day(4)), event("w", "c", day(4), kind="view"))
    before = known(shop)

    shop.now = NOW
    shop.materialize()

    assert histories(shop) == {"u": ["a", "b"], "v": ["a"], "w": ["c"]}
    assert known(shop) == before
    assert loaded_anew(shop) == before


def test_accepted_events_whose_push_failed_are_made_up_for(shop):
    shop.accept(event("u", "b", day(4)), event("u", "c", day(4.5), arrived=day(4.5)), pushed=False)

    shop.materialize()

    assert histories(shop)["u"] == ["a", "b", "c"]


def test_what_was_pushed_is_what_will_be_built(shop):
    """Online and offline are one transformation: the ingested events change nothing of what is online."""
    shop.materialize()
    pushed = [
        event("u", "b", day(3.2), kind="view"),
        event("u", "c", day(3.4), value=7.0),
        event("u", "late", day(0.7), kind="cart", arrived=day(3.6)),
        event("w", "c", day(3.7), kind="click"),
    ]
    for one in pushed:
        shop.accept(one)
    online = known(shop)
    shop.now = day(4)
    shop.ingest(pushed)
    shop.materialize()

    assert {user: features.item_ids for user, features in online.items()} == {
        "u": ["late", "a", "b", "c"],
        "v": ["a"],
        "w": ["c"],
    }
    for user, features in known(shop).items():
        assert numbers(features) == pytest.approx(numbers(online[user]), rel=1e-12, nan_ok=True)
        assert (features.item_ids, features.arrived_at_us) == (online[user].item_ids, online[user].arrived_at_us)


def test_events_that_the_build_knows_are_not_pushed_again(shop):
    """They may have been rejected since: the tables decide."""
    shop.event_log.append([event("u", "rejected", day(2), arrived=UNTIL - timedelta(seconds=1))])

    shop.materialize()

    assert histories(shop)["u"] == ["a"]


def test_pushed_events_that_were_rejected_are_taken_back(shop):
    shop.materialize()
    shop.accept(event("u", "rejected", day(3.5)), event("w", "rejected as well", day(3.5)))
    assert histories(shop) == {"u": ["a", "rejected"], "v": ["a"], "w": ["rejected as well"]}
    shop.now = day(4)
    shop.ingest([event("v", "b", day(3.9))])

    shop.materialize()

    assert histories(shop) == {"u": ["a"], "v": ["a", "b"], "w": []}
    assert known(shop) == loaded_anew(shop)


def test_an_online_store_that_was_emptied_is_filled_again(shop):
    shop.materialize()
    shop.empty_online_store()

    assert shop.materialize().complete
    assert histories(shop) == {"u": ["a"], "v": ["a"], "w": []}
