import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, DamagedStateError, StoreError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.places import Places
from pipelines.schemas import MAX_HISTORY
from pipelines.stores.feast_settings import online_store_settings
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.online_features import USER_VIEWS, OnlineFeatures, UserFeatures
from pipelines.stores.pushed_events import PushedEvents
from tests.stores.test_feature_store import EVENTS, UNTIL, spent
from tests.toys.event_tables import day, event
from tests.toys.live_shop import LiveShop

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis")

DAY_ZERO_US = int(day(0).timestamp()) * 1_000_000


@pytest.fixture
def feast_dir(tmp_path) -> Path:
    LiveShop(tmp_path, EVENTS, until=UNTIL).materialize()
    return tmp_path / "feast"


def online(feast_dir: Path, now: datetime = UNTIL) -> OnlineFeatures:
    return OnlineFeatures(feast_dir, environment={}, clock=lambda: now)


def test_the_service_reads_the_newest_features_of_a_user(feast_dir):
    user = online(feast_dir).read_user("u")

    assert (user.item_ids, user.event_types) == (["a", "b", "c"], ["purchase"] * 3)
    assert user.event_times == [int(day(number).timestamp()) for number in (1, 2, 3)]
    assert user.arrived_at_us == user.event_timestamp_us == int(day(3).timestamp()) * 1_000_000
    assert user.activity == pytest.approx(
        {
            "views": 0.0,
            "clicks": 0.0,
            "carts": 0.0,
            "purchases": 3.0,
            "ratings": 0.0,
            "events_1d_decayed": 1 + 0.5 + 0.25,
            "events_7d_decayed": 1 + 0.5 ** (1 / 7) + 0.5 ** (2 / 7),
            "events_28d_decayed": spent(1, 1, 1),
            "spend_28d_decayed": spent(2, 4, 6),
            "mean_value_28d_decayed": spent(2, 4, 6) / spent(1, 1, 1),
            "mean_gap_days": 1.0,
            "days_since_first": 2.0,
        }
    )


def test_a_stranger_has_nothing(feast_dir):
    assert online(feast_dir).read_user("nobody") == UserFeatures([], [], [], dict.fromkeys(ACTIVITY_FEATURES))


@pytest.mark.parametrize(
    ("now", "purchases"),
    [(day(31), 3.0), (day(31) + timedelta(microseconds=1), None)],
    ids=["28 days old", "a microsecond older"],
)
def test_activity_is_forgotten_online_when_it_is_forgotten_offline(feast_dir, now, purchases):
    user = online(feast_dir, now).read_user("u")

    assert user.activity["purchases"] == purchases
    assert user.item_ids == ["a", "b", "c"]


def test_the_moment_of_the_newest_event_is_known_to_the_microsecond(tmp_path):
    """Feast's SQLite store keeps whole seconds: features would decay from there, and expire too early."""
    at = day(2) + timedelta(microseconds=765_432)
    shop = LiveShop(tmp_path, [event("u", "a", day(1) + timedelta(microseconds=1)), event("u", "b", at)], until=day(3))
    shop.materialize()
    [raw] = shop.online._stores().reader.read([{"user_id": "u"}])
    assert raw.written_us["user_history"] % 1_000_000 == 0  # where Feast mends this, `_newest_us` may go

    assert shop.online.read_user("u").event_timestamp_us == (at - day(0)) // timedelta(microseconds=1) + DAY_ZERO_US
    shop.now = at + timedelta(days=28)
    assert shop.online.read_user("u").activity["purchases"] == 2.0
    shop.now += timedelta(microseconds=1)
    assert shop.online.read_user("u").activity["purchases"] is None


def test_the_short_way_to_a_user_gives_what_feast_gives(feast_dir):
    reader = online(feast_dir)._stores().reader
    users = [{"user_id": user} for user in ("u", "v", "nobody", "u")]
    assert reader._read_provider(users) == reader._read_feast(users)


def test_a_feature_of_another_type_is_an_error_that_says_what_to_run(feast_dir):
    from feast.protos.feast.types.Value_pb2 import Value

    features = online(feast_dir)
    features.read_user("u")
    with closing(sqlite3.connect(feast_dir / "online.db")) as database, database:
        rubbish = Value(string_val="many").SerializeToString()
        database.execute("UPDATE headrace_user_history SET value = ? WHERE feature_name = 'n_moments'", [rubbish])
    with pytest.raises(
        StoreError,
        match=r"of 1 users is damaged.*`n_moments` is a string_val instead.*Run `headrace materialize_features`",
    ):
        features.read_user("u")


def test_a_push_gives_the_user_another_stamp_in_every_process(feast_dir):
    here, there = online(feast_dir), online(feast_dir)
    before = {user: there.stamp(user) for user in ("u", "v")}
    assert None not in before.values() and not here.is_shared
    here.push_events([event("u", "d", day(9))])
    assert there.stamp("v") == before["v"]
    assert there.stamp("u") == here.stamp("u") != before["u"]


def test_a_materialization_gives_the_users_it_loads_another_stamp(tmp_path):
    shop = LiveShop(tmp_path, EVENTS, until=UNTIL)
    shop.materialize()
    before = shop.online.stamp("u")
    shop.accept(event("u", "d", UNTIL + timedelta(hours=1)), pushed=False)
    shop.now = UNTIL + timedelta(days=1)
    shop.materialize()
    assert before is not None and shop.another_service().stamp("u") != before


def test_a_push_says_what_the_next_read_says(feast_dir):
    features = online(feast_dir)
    pushed = features.push_events(
        [event("u", "d", day(9), value=2.5), event("new", "a", day(9) + timedelta(microseconds=7), kind="view")]
    )
    assert set(pushed) == {"u", "new"}
    for user, (said, stamp) in pushed.items():
        assert said == features.read_user(user) == online(feast_dir).read_user(user)
        assert stamp == features.stamp(user) is not None
    assert features.push_events([event("u", "d", day(9), value=2.5)]) == {}


@pytest.mark.parametrize("kind", ["purchase", "cart"])
def test_two_events_of_one_moment_both_count_in_two_calls(feast_dir, kind):
    features = online(feast_dir)
    at = day(9) + timedelta(microseconds=1)
    for number in (1, 2, 1, 2):  # each of them sent twice
        features.push_events([event("u", "d", at, kind=kind, number=number, arrived=day(9.5 + number))])
        assert features.has_pushed(event("u", "d", at, kind=kind, number=number)["event_id"])
    assert online(feast_dir).read_user("u").item_ids == ["a", "b", "c", "d", "d"]


def test_what_has_left_the_history_is_not_counted_again(feast_dir):
    features = online(feast_dir)
    first = event("new", "first", day(1), kind="cart")
    features.push_events([first])
    features.push_events([event("new", f"item-{n}", day(2 + n / 1_000), kind="cart") for n in range(MAX_HISTORY)])
    assert features.push_events([first]) == {}
    assert features.push_events([event("new", "late", day(1), kind="cart", arrived=day(4))])["new"].features.activity[
        "carts"
    ] == float(MAX_HISTORY + 2)


def test_damage_of_one_user_stays_with_that_user(feast_dir):
    from feast.protos.feast.types.Value_pb2 import Value

    features = online(feast_dir)
    features.push_events([event("w", "a", day(9), kind="view")])
    with closing(sqlite3.connect(feast_dir / "online.db")) as database, database:
        huge = Value()
        huge.int64_list_val.val.extend(range(100_000))
        database.execute(
            "UPDATE headrace_user_history SET value = ? WHERE feature_name = 'event_times' AND entity_key = "
            "(SELECT entity_key FROM headrace_user_history WHERE feature_name = 'n_events' AND value = ?)",
            [huge.SerializeToString(), Value(int64_val=3).SerializeToString()],
        )
    with pytest.raises(DamagedStateError, match="3 events with 3, 3, 100,000 in its lists"):
        features.read_user("u")
    with pytest.raises(DamagedStateError):
        features.push_events([event("w", "b", day(9.5), kind="view"), event("u", "b", day(9.5), kind="view")])
    assert features.read_user("w").item_ids == ["a", "b"]


class Killed(BaseException):
    """Ends a push as kill -9 ends it: nothing that comes after runs."""


@pytest.mark.parametrize("written", [False, True], ids=["before the rows", "after the rows"])
def test_a_push_that_was_killed_is_written_whole_by_the_next_one(feast_dir, written):
    killed, whole = online(feast_dir), online(feast_dir)
    events = [event("u", "d", day(9), kind="cart"), event("new", "a", day(9), kind="cart")]

    def die(*_):
        raise Killed

    if written:
        killed._pushed.add = die
    else:
        killed._stores().writer.write = die
    with pytest.raises(Killed):
        killed.push_events(events)
    assert not whole.has_pushed(events[0]["event_id"])
    assert all((whole.stamp(user) is None) == (not written) for user in ("u", "new"))  # not fresh until it is whole

    assert whole.push_events(events) == {}  # as the service does after its next start
    for user, items in (("u", ["a", "b", "c", "d"]), ("new", ["a"])):
        known = whole.read_user(user)
        assert (known.item_ids, known.activity["carts"]) == (items, 1.0)
        assert whole.stamp(user) is not None
    assert whole.has_pushed(events[0]["event_id"])


def test_what_is_written_is_what_feast_writes(feast_dir):
    from pipelines.stores.online_writer import OnlineWriter

    features = online(feast_dir)
    features.push_events(
        [event("u", "d", day(9), value=2.5, kind="purchase"), event("n\u00e9", "a", day(9), kind="view")]
    )
    [known, new] = features.states(["u", "n\u00e9"]).values()
    rows = [known | {"item_ids": [], "mean_gap_days": None}, new | {"days_since_first": 3}]
    writer = OnlineWriter(features._stores().reader._store, USER_VIEWS)
    writer._sqlite, ours = None, writer._sqlite
    from feast.infra.provider import get_provider

    writer._provider = get_provider(writer._config)

    def written() -> list:
        with closing(sqlite3.connect(feast_dir / "online.db")) as database:
            tables = [f"headrace_{view}" for view in USER_VIEWS]
            return [database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables]

    before = written()
    with ours.turn(waits=True):
        ours.write(rows)
    by_us = written()
    with writer.turn():
        writer.write(rows)
    assert before != by_us == written()


@pytest.fixture
def held(feast_dir):
    """Hold up pushes as others do."""

    @contextmanager
    def by(whom: str, features: OnlineFeatures):
        if whom == "a materialization":
            with online(feast_dir)._locked():
                yield
        elif whom == "feast":
            with closing(sqlite3.connect(feast_dir / "online.db", isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                yield
        else:
            with features._pushes.alone():
                yield

    return by


@pytest.mark.parametrize("whom", ["a materialization", "feast", "another thread"])
def test_a_push_at_once_waits_for_nobody(feast_dir, held, whom):
    features, told = online(feast_dir), [event("u", "d", day(9))]
    assert features.push_at_once(told) is None  # Feast is not open yet
    features.open()
    with held(whom, features):
        assert features.push_at_once(told) is None
        stamp = features.stamp("u")
    assert stamp is not None and features.stamp("u") == stamp and features._intent.left() is None
    [(user, (said, stamp))] = features.push_at_once(told).items()
    assert user == "u" and said == features.read_user("u") and stamp == features.stamp("u")
    assert said.item_ids == ["a", "b", "c", "d"] and features.has_pushed(told[0]["event_id"])


def test_a_killed_push_does_not_replace_what_is_known_since(feast_dir):
    features = online(feast_dir)
    early, late = [event("u", "d", day(9), kind="cart")], [event("u", "e", day(9.5), kind="cart")]
    features.push_events(early)
    [row] = features.states(["u"]).values()
    features.push_events(late)
    features._intent.note([row], [])
    features.push_events([event("v", "d", day(9.6))])
    assert features.read_user("u").item_ids == ["a", "b", "c", "d", "e"]


def test_a_note_that_was_cut_short_is_none(feast_dir):
    features = online(feast_dir)
    features._intent.note(list(features.states(["u"]).values()), ["e"])
    note = feast_dir / ".push_intent"
    assert features._intent.left().event_ids == ["e"] and features._intent.left().rows == [features.states(["u"])["u"]]
    note.write_bytes(note.read_bytes()[:-1])
    assert features._intent.left() is None


def test_features_say_until_when_they_count(feast_dir):
    user = online(feast_dir).read_user("u")
    assert user.counts_until_us == user.event_timestamp_us + 28 * 86_400_000_000
    late = online(feast_dir, UNTIL + timedelta(days=40)).read_user("u")
    assert late.counts_until_us is None and late.activity["purchases"] is None


def test_a_pushed_event_is_in_the_next_read_with_the_activity(feast_dir):
    features = online(feast_dir)
    features.push_events([event("u", "d", day(9), kind="click")])

    user = online(feast_dir).read_user("u")
    assert user.item_ids == ["a", "b", "c", "d"]
    assert user.event_types[-1] == "click"
    assert user.event_times[-1] == int(day(9).timestamp())
    assert (user.activity["purchases"], user.activity["clicks"]) == (3.0, 1.0)
    assert user.activity["events_7d_decayed"] == pytest.approx(1 + sum(0.5 ** (age / 7) for age in (6, 7, 8)))


def test_a_stranger_is_known_after_the_first_event(feast_dir):
    features = online(feast_dir)
    features.push_events([event("new", "a", day(9), kind="view")])

    assert features.read_user("new").item_ids == ["a"]


def test_pushing_twice_changes_nothing(feast_dir):
    features = online(feast_dir)
    pushed = [event("u", "d", day(9)), event("u", "d", day(9)), event("u", "e", day(9))]
    features.push_events(pushed)
    once = features.read_user("u")
    features.push_events(pushed)

    assert once.item_ids == ["a", "b", "c", "d", "e"]
    assert features.read_user("u") == once


def test_a_purchase_counts_once_although_thousands_of_events_came_between_its_pushes(feast_dir):
    features = online(feast_dir)
    purchase = event("u", "d", day(9), kind="purchase")
    features.push_events([purchase])
    once = features.read_user("u")
    PushedEvents(feast_dir / "pushed_events.bin").add(f"other-{number}" for number in range(10_000))
    assert features.has_pushed(purchase["event_id"])
    features.push_events([purchase])
    assert features.read_user("u") == once


def test_late_events_are_put_in_their_place(feast_dir):
    features = online(feast_dir)
    features.push_events([event("u", "between", day(2.5), kind="view", arrived=day(4))])
    features.push_events([event("u", "earlier", day(0.5), kind="view", arrived=day(5))])

    assert features.read_user("u").item_ids == ["earlier", "a", "b", "between", "c"]


def test_only_the_newest_events_stay(feast_dir):
    features = online(feast_dir)
    newest = [f"item-{number}" for number in range(MAX_HISTORY - 1)]
    features.push_events([event("u", item, day(4 + number / 100)) for number, item in enumerate(newest)])

    user = features.read_user("u")
    assert user.item_ids == ["c", *newest]
    assert len(user.event_types) == len(user.event_times) == MAX_HISTORY


def test_impressions_searches_and_events_without_an_item_are_passed_over(feast_dir):
    features = online(feast_dir)
    ignored = [event("u", "d", day(9), kind="impression"), event("u", None, day(9), kind="search")]
    features.push_events([*ignored, event("u", None, day(9), kind="view")])

    assert features.read_user("u").item_ids == ["a", "b", "c"]


def test_concurrent_pushes_lose_nothing(feast_dir):
    several = [online(feast_dir) for _ in range(2)]  # as two processes have them
    several[0].open()

    def push(number: int) -> None:
        several[number % 2].push_events([event("u", f"item-{number:02d}", day(5 + number))])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, range(24)))

    assert several[0].read_user("u").item_ids == ["a", "b", "c", *(f"item-{number:02d}" for number in range(24))]


def test_a_read_during_a_push_sees_the_history_before_or_after_it_and_nothing_in_between(feast_dir):
    features = online(feast_dir)
    features.open()

    def push() -> None:
        for number in range(12):
            features.push_events([event("u", f"item-{number:02d}", day(5 + number))])

    with ThreadPoolExecutor(1) as pool:
        pushes = pool.submit(push)
        lengths = set()
        while not pushes.done():
            user = features.read_user("u")
            lengths.add((len(user.item_ids), len(user.event_types), len(user.event_times)))
        pushes.result()

    assert {length for length in lengths if len(set(length)) > 1} == set()


def test_before_the_first_materialization_the_error_says_what_to_run(tmp_path):
    with pytest.raises(StoreError, match="run `headrace materialize_features` first"):
        online(tmp_path / "feast").read_user("u")


def test_what_was_missing_at_first_is_found_later(tmp_path):
    features = online(tmp_path / "feast")
    with pytest.raises(StoreError):
        features.open()
    LiveShop(tmp_path, EVENTS, until=UNTIL).materialize()

    assert features.read_user("u").item_ids == ["a", "b", "c"]


def test_before_the_first_materialization_everybody_is_a_stranger(tmp_path):
    LiveShop(tmp_path, EVENTS, until=UNTIL).feature_store.apply()

    assert online(tmp_path / "feast").read_user("u") == UserFeatures()


def test_views_that_feast_declares_unready_are_refused_until_they_are_loaded(feast_dir):
    mark(feast_dir, "GENERATED")  # as two failed materializations leave them
    features = online(feast_dir)
    with pytest.raises(StoreError, match="run `headrace materialize_features` first"):
        features.read_user("u")
    feature_store = FeatureStoreClient(places=Places(feast_dir.parent), environment={})
    feature_store.finish_users(1, UNTIL)

    assert features.read_user("u").item_ids == ["a", "b", "c"]


def test_a_materialization_in_progress_does_not_interrupt_the_service(feast_dir, caplog):
    """Feast marks a view in the registry while it materializes it, and refuses to read it."""
    running = online(feast_dir)
    running.open()
    mark(feast_dir, "MATERIALIZING")

    running.push_events([event("u", "d", day(9))])
    assert running.read_user("u").item_ids == ["a", "b", "c", "d"]
    assert online(feast_dir).read_user("u").item_ids == ["a", "b", "c", "d"]  # one that starts now
    assert not caplog.records


def mark(feast_dir: Path, state: str) -> None:
    """Put the users' views into a state of Feast's; a materialization that was killed leaves MATERIALIZING."""
    from feast.feature_view import FeatureViewState

    from pipelines.stores.feast_settings import open_feature_store

    store = open_feature_store(feast_dir, None)
    for name in ("user_history", "user_activity"):
        view = store.get_feature_view(name)
        view.state = FeatureViewState[state]
        store.registry.apply_feature_view(view, store.project)


def test_a_registry_that_is_being_written_does_not_interrupt_a_running_service(feast_dir):
    running = online(feast_dir)
    running.open()
    whole = (feast_dir / "registry.db").read_bytes()
    (feast_dir / "registry.db").write_bytes(whole[: len(whole) // 2])

    assert running.read_user("u").item_ids == ["a", "b", "c"]
    starting = online(feast_dir)
    with pytest.raises(StoreError):
        starting.read_user("u")
    (feast_dir / "registry.db").write_bytes(whole)
    assert starting.read_user("u").item_ids == ["a", "b", "c"]


def test_a_materialization_after_a_killed_one_works(feast_dir):
    mark(feast_dir, "MATERIALIZING")
    FeatureStoreClient(places=Places(feast_dir.parent), environment={}).finish_users(1, UNTIL)

    assert online(feast_dir).read_user("u").item_ids == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("address", "connection_string"),
    [
        ("redis://cache", "cache:6379,db=0"),
        ("redis://:se%40cret@cache:7000/2", "cache:7000,db=2,password=se@cret"),
        ("rediss://me:word@cache:6380/1", "cache:6380,db=1,username=me,password=word,ssl=true"),
    ],
)
def test_redis_addresses(tmp_path, address, connection_string):
    settings = online_store_settings(tmp_path, address)

    assert settings == {"type": "redis", "connection_string": connection_string, "skip_dedup": True}


@pytest.mark.parametrize(
    ("address", "next_action"),
    [
        ("postgres://me:secret@host/db", "write redis://host:6379/0"),
        ("host:6379", "write redis://host:6379/0"),
        ("redis://", "write redis://host:6379/0"),
        ("redis://:secret%2Cword@host", "choose another"),
        ("redis://:1e5@host", "choose another"),
        ("redis://:true@host", "choose another"),
    ],
)
def test_another_address_is_refused_without_showing_its_secret(tmp_path, address, next_action):
    with pytest.raises(ConfigError, match=rf"HEADRACE_ONLINE_STORE.*{next_action}") as refusal:
        online_store_settings(tmp_path, address)
    assert "secret" not in str(refusal.value)


def test_the_service_side_imports_neither_feast_before_it_is_needed_nor_torch_at_all():
    code = (
        "import sys, pipelines.stores.online_features as o\n"
        "assert 'feast' not in sys.modules and 'pandas' not in sys.modules\n"
        "from pipelines.stores.feast_settings import import_feast\n"
        "import typeguard; before = typeguard.typechecked\n"
        "import_feast()\n"
        "assert 'torch' not in sys.modules and typeguard.typechecked is before\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
