"""What is known of users, on a store in memory that can hang, fail and talk nonsense."""

import threading
import time
from dataclasses import replace

import pytest

from bentos.recommender.user_states import FeatureAnswer, UserStates
from pipelines.config import ServingConfig
from pipelines.errors import StoreError
from tests.toys.toy_bundle import User

PATIENCE_MS = 30


class Store:
    """Users in a dictionary, with a count of changes and reads."""

    is_shared = False

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.stamps: dict[str, int | None] = {}
        self.reads = 0
        self.problem: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def stamp(self, user_id: str) -> int | None:
        return self.stamps.setdefault(user_id, 0)

    def change(self, user_id: str, *item_ids: str, **changes) -> None:
        n = len(item_ids)
        self.users[user_id] = replace(User(list(item_ids), ["view"] * n, [0] * n), **changes)
        self.stamps[user_id] = (self.stamp(user_id) or 0) + 1

    def read_user(self, user_id: str) -> User:
        self.reads += 1
        found = self.users.get(user_id, User())
        self.open.wait(10)
        if self.problem:
            raise self.problem
        return replace(found)  # equal, not the same

    def push_events(self, events) -> None:
        if self.problem:
            raise self.problem
        for event in events:
            self.change(event["user_id"], *self.users.get(event["user_id"], User()).item_ids, event["item_id"])


@pytest.fixture
def store():
    return Store()


def states_over(store: Store, now: float = 0.0, **settings) -> UserStates:
    return UserStates(store, ServingConfig(feature_timeout_ms=PATIENCE_MS, **settings), clock=lambda: now)


@pytest.fixture
def states(store):
    states = states_over(store)
    yield states
    store.open.set()
    states.close()


def test_what_was_never_read_must_be_read(states, store):
    assert states.fresh("u") is None
    assert states.read("u") == FeatureAnswer(User())
    assert store.reads == 1


def test_the_same_object_comes_back_without_a_read_while_nothing_changes(states, store):
    store.change("u", "a")
    first = states.read("u").features
    assert first.item_ids == ["a"]
    assert states.fresh("u").features is first and states.read("u").features is first
    assert store.reads == 1


def test_a_change_is_read_at_once(states, store):
    store.change("u", "a")
    states.read("u")
    store.change("u", "a", "b")
    assert states.fresh("u") is None
    assert states.read("u").features.item_ids == ["a", "b"]


def test_a_change_of_another_user_in_the_same_slot_leaves_the_object_as_it_is(states, store):
    store.change("u", "a")
    first = states.read("u")
    store.stamps["u"] += 1
    assert states.fresh("u") is None
    assert states.read("u").features is first.features
    assert states.fresh("u").features is first.features


def test_without_a_stamp_every_request_reads(states, store):
    store.stamps["u"] = None
    states.read("u")
    assert states.fresh("u") is None
    states.read("u")
    assert store.reads == 2


@pytest.mark.parametrize(
    ("shared", "settings"),
    [
        pytest.param(False, {"user_cache_s": 0}, id="own store"),
        pytest.param(True, {"shared_user_cache_s": 0}, id="store of several machines"),
    ],
)
def test_what_is_too_old_is_read_again_and_stays_the_same_object(store, shared, settings):
    store.is_shared = shared
    states = states_over(store, **settings)
    first = states.read("u")
    time.sleep(0.001)
    assert states.fresh("u") is None
    assert states.read("u").features is first.features
    states.close()


def test_what_does_not_count_any_more_is_read_again(store):
    store.change("u", "a", counts_until_us=1_000_000)
    for now, fresh in ((1.0, True), (1.5, False)):
        states = states_over(store, now)
        states.read("u")
        assert (states.fresh("u") is not None) is fresh
        states.close()


def test_only_so_many_users_are_kept_the_last_asked_for(store):
    states = states_over(store, cached_users=2)
    for user in ("a", "b", "a", "c"):
        states.read(user)
    assert [states.fresh(user) is not None for user in ("a", "b", "c")] == [True, False, True]
    states.close()


def test_a_change_during_the_read_is_read_again(states, store):
    store.change("u", "a")
    store.open.clear()
    reading = threading.Thread(target=states.read, args=("u",))
    reading.start()
    while not store.reads:
        time.sleep(0.001)
    store.change("u", "a", "b")
    store.open.set()
    reading.join()
    assert states.read("u").features.item_ids == ["a", "b"]


def test_a_store_that_hangs_costs_the_limit_and_the_last_known_answers(states, store):
    store.change("u", "a")
    known = states.read("u").features
    store.change("u", "a", "b")
    store.open.clear()
    began = time.monotonic()
    answer = states.read("u")
    assert answer == FeatureAnswer(known, f"the feature store did not answer within {PATIENCE_MS} ms")
    assert PATIENCE_MS / 1e3 <= time.monotonic() - began < 1
    assert states.read("nobody").features is None


def test_the_wait_ends_with_the_request_s_time(states, store):
    store.open.clear()
    assert states.read("u", within_s=0.001).problem == "the feature store did not answer within 1 ms"
    assert states.read("u", within_s=-1).problem == "the feature store did not answer within 0 ms"


def test_a_store_that_hangs_is_left_alone_after_three_waits_and_found_again_when_it_is_back(states, store):
    store.change("u", "a")
    states.read("u")
    store.change("u", "a", "b")
    store.open.clear()
    for _ in range(3):
        states.read("u")
    reads, began = store.reads, time.monotonic()
    for number in range(1_000):
        answer = states.fresh("u") if number % 2 else states.read("u")
        assert answer.features.item_ids == ["a"] and "left alone" in answer.problem
    assert time.monotonic() - began < 0.4 and store.reads == reads
    store.open.set()
    until = time.monotonic() + 1.5
    while states.read("u").problem:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert states.fresh("u") == FeatureAnswer(store.users["u"])


def test_a_store_that_fails_is_told_and_the_last_known_answers(states, store):
    store.change("u", "a")
    known = states.read("u").features
    store.change("u", "a", "b")
    store.problem = StoreError("down")
    assert states.read("u") == FeatureAnswer(known, "the feature store failed")
    store.problem = None
    assert states.read("u").features.item_ids == ["a", "b"]
