"""What is known of users, on a store in memory that can hang, fail and talk nonsense."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bentos.recommender.telemetry.metrics import EVENT_TO_EFFECT_SECONDS
from bentos.recommender.users.session_histories import SessionHistories
from bentos.recommender.users.user_states import FeatureAnswer, UserStates
from pipelines.config import ServingConfig
from pipelines.errors import DamagedStateError, StoreError
from pipelines.schemas import MAX_HISTORY
from tests.toys.event_tables import event
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

    def push_at_once(self, events) -> None:
        """Pushes are waited for on another thread."""

    def push_events(self, events) -> None:
        if self.problem:
            raise self.problem
        self.open.wait(10)
        for one in events:
            self.change(one["user_id"], *self.users.get(one["user_id"], User()).item_ids, one["item_id"])
        return {one["user_id"]: (self.users[one["user_id"]], self.stamp(one["user_id"])) for one in events}


@pytest.fixture
def store():
    return Store()


def states_over(store: Store, now: float = 0.0, **settings) -> UserStates:
    return UserStates(
        store, ServingConfig(feature_timeout_ms=PATIENCE_MS, push_timeout_ms=PATIENCE_MS, **settings), clock=lambda: now
    )


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


SLOW = f"the feature store did not answer within {PATIENCE_MS} ms"
FAILED = "the feature store failed"
LEFT_ALONE = "the feature store failed and is left alone for a moment"


def test_a_store_that_hangs_costs_the_limit_and_what_it_said_last_answers(states, store):
    store.change("u", "a")
    known = states.read("u").features
    store.change("u", "a", "b")
    store.open.clear()
    began = time.monotonic()
    assert states.read("u") == FeatureAnswer(known, f"{SLOW}, what it said last is used", "cache")
    assert PATIENCE_MS / 1e3 <= time.monotonic() - began < 1
    assert states.read("nobody") == FeatureAnswer(None, f"{SLOW}, nothing is known of the user", "nothing")


def test_the_wait_ends_with_the_request_s_time(states, store):
    store.open.clear()
    assert states.read("u", within_s=0.001).problem.startswith("the feature store did not answer within 1 ms")
    assert states.read("u", within_s=-1).problem.startswith("the feature store did not answer within 0 ms")
    late = states.push([viewed("u", "a")], time.monotonic(), within_s=0.001)
    assert late.startswith("the feature store did not take the events within 1 ms")


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
        assert answer.features.item_ids == ["a"] and answer.problem.startswith(LEFT_ALONE)
    assert time.monotonic() - began < 0.4 and store.reads == reads
    store.open.set()
    until = time.monotonic() + 1.5
    while states.read("u").problem:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert states.fresh("u") == FeatureAnswer(store.users["u"])


def test_a_store_that_fails_is_told_and_what_it_said_last_answers(states, store):
    store.change("u", "a")
    known = states.read("u").features
    store.change("u", "a", "b")
    store.problem = StoreError("down")
    assert states.read("u") == FeatureAnswer(known, f"{FAILED}, what it said last is used", "cache")
    store.problem = None
    assert states.read("u").features.item_ids == ["a", "b"]


def test_damage_of_one_user_does_not_keep_the_others_from_the_store(states, store):
    store.problem = DamagedStateError("rubbish")
    for _ in range(10):
        assert states.read("u").problem.startswith(FAILED)
    store.problem = None
    assert states.read("v").problem is None


# Events


def viewed(user: str, item: str, at_s: int = 0, number: int = 0) -> dict:
    return event(user, item, datetime.fromtimestamp(at_s, UTC), kind="view", number=number)


def push(states: UserStates, *events: dict) -> str | None:
    return states.push(events, time.monotonic())


def test_a_pushed_event_is_in_the_next_answer_without_a_read(states, store):
    assert push(states, viewed("u", "a"), viewed("v", "b")) is None
    assert states.fresh("u").features is store.users["u"] and states.fresh("v").features.item_ids == ["b"]
    assert store.reads == 0


def test_the_time_from_an_event_to_its_effect_is_told(states):
    before = EVENT_TO_EFFECT_SECONDS.collect()[0].samples[-2].value
    states.push([viewed("u", "a")], time.monotonic() - 2)
    counted, seconds = (sample.value for sample in EVENT_TO_EFFECT_SECONDS.collect()[0].samples[-3:-1])
    assert counted >= 1 and seconds - before == pytest.approx(2, abs=0.5)


def test_while_the_store_is_down_the_events_of_the_session_are_added_to_what_it_said_last(states, store):
    store.change("u", "a")
    activity = states.read("u").features.activity
    store.problem = StoreError("down")
    assert push(states, viewed("u", "b", 5), viewed("u", "a", 0)).startswith(f"{FAILED}; the events are kept")
    store.stamps["u"] = None  # nothing can be fresh
    answer = states.read("u")
    assert (answer.source, answer.problem) == ("session", f"{FAILED}, the events of this session are used")
    assert (answer.features.item_ids, answer.features.event_times) == (["a", "b"], [0, 5])
    assert answer.features.activity == activity
    assert states.read("u").features is answer.features


def test_while_the_store_is_down_a_stranger_is_known_by_the_session_alone(states, store):
    store.problem = StoreError("down")
    push(states, viewed("u", "b", 5))
    push(states, viewed("u", "a", 3))
    answer = states.read("u")
    assert (answer.source, answer.features.item_ids) == ("session", ["a", "b"])
    assert set(answer.features.activity.values()) == {None}


def test_events_that_wait_for_the_store_are_added_to_what_it_says(states, store):
    store.change("u", "a")
    states.read("u")
    store.problem = StoreError("down")
    push(states, viewed("u", "b", 5))
    store.problem = None
    answer = states.fresh("u")
    assert (answer.features.item_ids, answer.source) == (["a", "b"], "session")
    assert answer.problem == "the last events are not in the feature store yet"
    states.push_again([viewed("u", "b", 5)])
    assert states.fresh("u") == FeatureAnswer(store.users["u"])


def test_a_store_that_hangs_holds_up_few_pushes_and_is_found_again_when_it_is_back(states, store):
    store.open.clear()
    began = time.monotonic()
    problems = [push(states, viewed("u", f"item-{number}", number)) for number in range(50)]
    assert time.monotonic() - began < 1
    assert problems[0].startswith(f"the feature store did not take the events within {PATIENCE_MS} ms; the events are")
    assert problems[-1].startswith(LEFT_ALONE)
    assert len(states.read("u").features.item_ids) == 50
    store.open.set()
    until = time.monotonic() + 1.5
    while push(states, viewed("u", "last", 100)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_session_of_a_user_is_bounded(states, store):
    store.problem = StoreError("down")
    for number in range(3):
        states.push([viewed("u", f"item-{number}-{one}", one) for one in range(MAX_HISTORY)], time.monotonic())
    assert len(states.read("u").features.item_ids) == MAX_HISTORY


def test_of_the_sessions_the_last_stay():
    sessions = SessionHistories(users=2)
    sessions.add([viewed("a", "x"), viewed("b", "x"), viewed("a", "y"), viewed("c", "x")])
    assert [sessions.of(user) is not None for user in "abc"] == [True, False, True]


def test_who_wants_to_know_learns_what_an_event_changed(states, store):
    learned = []
    states.changed = lambda before, after: learned.append((before, after))
    store.change("u", "a")
    states.push([viewed("u", "b")], time.monotonic())  # of this user nothing was known here
    before = states.read("u").features
    states.push([viewed("u", "c")], time.monotonic())
    assert learned == [(before, states.fresh("u").features)]
    assert learned[0][1] is states.fresh("u").features


def test_the_latest_users_are_told_newest_first(states, store):
    for user in ("a", "b", "c"):
        states.read(user)
    states.read("a")
    assert states.latest(2) == ["a", "c"]


def test_who_changed_elsewhere_is_read_again_and_told(states, store):
    store.change("u", "a")
    before = states.read("u").features
    told = []
    states.changed = lambda before, after: told.append((before, after))
    assert not states.refresh("u")
    store.change("u", "a", "b")
    assert states.refresh("u")
    assert told == [(before, states.fresh("u").features)]
    assert told[0][1].item_ids == ["a", "b"]
    assert not states.refresh("u")


def test_who_is_not_known_is_not_read_again(states, store):
    assert not states.refresh("u")
    assert store.reads == 0


def test_what_cannot_be_told_is_not_read_again(states, store):
    states.read("u")
    store.stamps["u"] = None
    assert not states.refresh("u")


def test_a_store_that_fails_while_changes_are_looked_for_fails_nobody(states, store):
    store.change("u", "a")
    states.read("u")
    store.change("u", "a", "b")
    store.problem = StoreError("down")
    assert [states.refresh("u") for _ in range(10)][::9] == [True, False]  # in the end it is left alone
    assert states.read("u").features.item_ids == ["a"]


def test_who_is_asked_for_is_read_again_before_it_is_too_old(states, store, monkeypatch):
    first, _ = [states.read(user).features for user in ("u", "v")]
    states.fresh("u")
    seconds_later(monkeypatch, 40)
    assert states.ageing(10) == [] and not states.refresh("u")
    seconds_later(monkeypatch, 10)
    assert states.ageing(10) == ["u"] and states.ageing(0) == []
    assert [states.refresh(user) for user in ("u", "v", "u")] == [True, False, False]
    assert store.reads == 3 and states.ageing(10) == []
    seconds_later(monkeypatch, 15)
    assert states.fresh("u").features is first and states.fresh("v") is None


def seconds_later(monkeypatch, seconds: float) -> None:
    now = time.monotonic()
    monkeypatch.setattr("bentos.recommender.users.user_states.time.monotonic", lambda: now + seconds)


class QuickStore(Store):
    """A store that need not be waited for; notes which threads push."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []
        self.takes_s = 0.0

    def push_at_once(self, events):
        return self.push_events(events)

    def push_events(self, events):
        self.threads.append(threading.current_thread().name)
        time.sleep(self.takes_s)
        return super().push_events(events)


def test_the_thread_that_has_an_event_pushes_it_while_the_store_is_quick(monkeypatch):
    store = QuickStore()
    states, me = states_over(store), threading.current_thread().name
    assert states.push([viewed("u", "a")], time.monotonic()) is None
    assert states.fresh("u").features.item_ids == ["a"]
    store.takes_s = 0.025
    assert states.push([viewed("u", "b")], time.monotonic()) is None
    store.takes_s = 0.0
    assert states.push([viewed("u", "c")], time.monotonic()) is None
    assert store.threads == [me, me, "pushes"]  # it might hang the next time
    seconds_later(monkeypatch, 1.1)
    states.push([viewed("u", "d")], time.monotonic())
    assert store.threads[3:] == [me]
    states.close()


def test_a_request_without_time_does_not_push_itself():
    store = QuickStore()
    states = states_over(store)
    states.push([viewed("u", "a")], time.monotonic(), within_s=0.01)
    states.close()
    assert threading.current_thread().name not in store.threads


def test_a_store_that_fails_fails_the_push_once_and_is_then_waited_for_elsewhere():
    store = QuickStore()
    states, store.problem = states_over(store), StoreError("down")
    assert "the feature store failed" in states.push([viewed("u", "a")], time.monotonic())
    assert store.threads == [threading.current_thread().name]
    store.problem = None
    assert states.push([viewed("u", "b")], time.monotonic()) is None
    assert store.threads[1:] == ["pushes"]
    states.close()
