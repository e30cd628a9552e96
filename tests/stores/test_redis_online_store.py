"""The whole online path on a real Redis server, which is SQLite's in every respect but the address."""

from pathlib import Path

import pytest

from pipelines.errors import StoreError
from pipelines.stores.online_features import UserFeatures
from tests.stores.test_feature_store import EVENTS, UNTIL
from tests.toys.event_tables import day, event
from tests.toys.live_shop import LiveShop
from tests.toys.redis_server import RedisServer, needs_redis

pytestmark = [
    needs_redis,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis"),
]
USERS = ("u", "v", "new", "nobody")
PUSHES = [
    event("u", "d", day(11), kind="click"),
    event("u", "late", day(2.5), kind="view", arrived=day(11.5)),
    event("new", "a", day(12), value=3.0),
    event("u", "e", day(12.5), value=8.0),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = RedisServer(tmp_path_factory.mktemp("redis"), password="p@ss:w0rd").start()
    yield running
    running.stop()


@pytest.fixture
def shop(tmp_path, server) -> LiveShop:
    server.empty()
    return shop_on(tmp_path, server)


def shop_on(home: Path, server: RedisServer) -> LiveShop:
    return LiveShop(home, EVENTS, until=UNTIL, environment={"HEADRACE_ONLINE_STORE": server.address})


def known(shop: LiveShop) -> dict[str, UserFeatures]:
    return {user: shop.online.read_user(user) for user in USERS}


def test_redis_gives_what_sqlite_gives_at_every_step(tmp_path, shop):
    sqlite = LiveShop(tmp_path / "sqlite", EVENTS, until=UNTIL)
    shops = (shop, sqlite)
    for one in shops:
        one.materialize()
    assert known(shop) == known(sqlite)
    assert known(shop)["u"].item_ids == ["a", "b", "c"]
    for pushed in PUSHES:
        for one in shops:
            one.accept(pushed)
        assert known(shop) == known(sqlite)
    assert known(shop)["u"].item_ids == ["a", "b", "late", "c", "d", "e"]
    for one in shops:
        one.now = day(13)
        one.ingest(PUSHES)
        one.materialize()
    assert known(shop) == known(sqlite)
    assert not (shop.places.feast / "online.db").exists()


def test_a_late_event_replaces_a_row_that_is_as_new_by_event_time(shop):
    """Feast's Redis store drops it unless it is told not to."""
    shop.materialize()
    shop.accept(event("u", "late", day(0.5), kind="view", arrived=day(11)))

    user = shop.online.read_user("u")
    assert user.item_ids == ["late", "a", "b", "c"]
    assert user.event_timestamp_us == int(day(3).timestamp()) * 1_000_000
    assert user.arrived_at_us == int(day(11).timestamp()) * 1_000_000


@pytest.mark.parametrize(("microseconds", "purchases"), [(0, 3.0), (1, None)], ids=["28 days old", "older"])
def test_activity_expires_to_the_microsecond(shop, microseconds, purchases):
    shop.materialize()
    shop.now = day(31).replace(microsecond=microseconds)

    assert shop.online.read_user("u").activity["purchases"] == purchases


def test_without_the_password_nothing_is_read_and_it_is_not_shown(tmp_path, shop, server):
    shop.materialize()
    locked_out = LiveShop.__new__(LiveShop)
    locked_out.__dict__ |= shop.__dict__
    locked_out._environment = {"HEADRACE_ONLINE_STORE": f"redis://:wrong@127.0.0.1:{server.port}/0"}
    locked_out.restart()

    with pytest.raises(StoreError, match="online store does not answer") as refusal:
        locked_out.online.read_user("u")
    assert "wrong" not in str(refusal.value) and "p@ss" not in str(refusal.value)


def test_redis_that_went_away_is_an_error_until_it_is_back(tmp_path):
    server = RedisServer(tmp_path / "redis").start()
    try:
        shop = shop_on(tmp_path / "home", server)
        shop.materialize()
        shop.accept(PUSHES[0])
        before = known(shop)
        server.stop()

        with pytest.raises(StoreError, match="online store does not answer"):
            shop.online.read_user("u")
        with pytest.raises(StoreError):
            shop.online.push_events([PUSHES[2]])
        with pytest.raises(StoreError):
            shop.materialize()

        server.start()
        assert known(shop) == before
        shop.accept(PUSHES[2])
        assert shop.online.read_user("new").item_ids == ["a"]
    finally:
        server.stop()


def test_another_server_and_an_emptied_one_are_filled_whole(tmp_path, shop, server):
    shop.materialize()
    assert not shop.materialize().complete
    server.empty()
    shop.restart()
    assert shop.materialize().complete
    other = RedisServer(tmp_path / "other").start()
    try:
        shop._environment = {"HEADRACE_ONLINE_STORE": other.address}
        shop.restart()
        assert shop.materialize().complete
        assert shop.online.read_user("u").item_ids == ["a", "b", "c"]
    finally:
        other.stop()
