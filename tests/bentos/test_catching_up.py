"""What lies in the event log and not in the online store, on a log on the disk and a store in memory."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bentos.recommender.users import catching_up
from bentos.recommender.users.catching_up import CatchingUp
from bentos.recommender.users.user_states import UserStates
from pipelines.config import ServingConfig
from pipelines.errors import DamagedStateError, StoreError
from pipelines.stores.event_log import EventLog
from pipelines.stores.loaded_state import Loaded
from pipelines.stores.push_checkpoint import PushCheckpoint
from tests.toys.event_tables import day, event
from tests.toys.toy_bundle import User


class Store:
    """Remembers what was pushed."""

    is_shared = False

    def __init__(self) -> None:
        self.pushed: list[str] = []
        self.known: set[str] = set()
        self.synced = 0
        self.problem: Exception | None = None

    def stamp(self, user_id: str) -> None:
        return None

    def read_user(self, user_id: str) -> User:
        return User()

    def has_pushed(self, event_id: str) -> bool:
        return event_id in self.known

    def push_events(self, events: Sequence[Mapping[str, Any]]) -> dict:
        if self.problem:
            raise self.problem
        self.pushed += [one["item_id"] for one in events]
        return {}

    def sync(self) -> None:
        self.synced += 1


class Shop:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = day(1)
        self.log = EventLog(folder / "log", clock=lambda: self.now)
        self.store = Store()

    def start(self, interval_s: float = 60.0) -> CatchingUp:
        return CatchingUp(
            PushCheckpoint(self.folder, self.log),
            store=self.store,
            users=UserStates(self.store, ServingConfig()),
            lock=self.folder / ".lock",
            interval_s=interval_s,
            now=lambda: self.now,
        )

    def accept(self, *items: str, kind: str = "view") -> None:
        events = [event("u", item, self.now, kind=kind) for item in items]
        self.log.append([{**one, "created_timestamp": None} for one in events])
        self.now += timedelta(minutes=1)

    def load(self, until: datetime) -> None:
        loaded = Loaded(store="sqlite", token="t", build=1, until=until)
        (self.folder / "loaded.json").write_text(loaded.model_dump_json())


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


def test_what_was_accepted_and_not_pushed_is_pushed_once(shop, caplog):
    shop.accept("a", "b")
    shop.accept("c")
    assert shop.start().catch_up() == 3
    assert shop.store.pushed == ["a", "b", "c"] and shop.store.synced == 1
    assert "has all events of the log: 3 were pushed" in caplog.text
    assert shop.start().catch_up() == 0
    shop.accept("d")
    assert shop.start().catch_up() == 1
    assert shop.store.pushed == ["a", "b", "c", "d"]


def test_many_events_are_pushed_some_at_a_time_with_progress_in_the_log(shop, caplog, monkeypatch):
    monkeypatch.setattr(catching_up, "_TOLD_EVERY_S", 0.0)
    shop.accept(*(f"item-{number}" for number in range(100)))
    assert shop.start().catch_up() == 100
    assert len(shop.store.pushed) == 100
    assert "64 events of the log were pushed, up to those that arrived at 2026-01-02T00:00:00" in caplog.text


def test_what_was_pushed_already_is_passed_over(shop):
    shop.accept("a", "b")
    shop.store.known = {event("u", "a", day(1), kind="view")["event_id"]}
    shop.accept("later")
    shop.start().catch_up()
    assert shop.store.pushed == ["a", "b", "later"]  # no checkpoint yet: a power cut may have taken it away
    shop.accept("c")
    shop.store.known = {event("u", "c", shop.now - timedelta(minutes=1), kind="view")["event_id"]}
    shop.accept("d")
    shop.start().catch_up()
    assert shop.store.pushed == ["a", "b", "later", "d"]


def test_events_that_are_no_part_of_a_history_are_passed_over(shop):
    shop.accept("a", kind="impression")
    assert shop.start().catch_up() == 0
    assert shop.store.pushed == []


def test_what_has_only_just_arrived_is_left_to_whoever_accepted_it(shop):
    shop.accept("a")
    shop.log.append([{**event("u", "b", shop.now), "created_timestamp": None}])
    shop.now += timedelta(milliseconds=500)
    assert shop.start().catch_up() == 1
    shop.now += timedelta(seconds=1)
    assert shop.start().catch_up() == 1


def test_the_first_time_what_the_store_was_loaded_with_is_passed_over(shop):
    shop.accept("old")
    shop.load(until=day(1))
    shop.accept("new")
    shop.start().catch_up()
    assert shop.store.pushed == ["new"]


def test_where_the_log_lost_its_place_it_begins_with_the_last_load(shop, caplog):
    shop.accept("old")
    shop.start().catch_up()
    shop.load(until=shop.now)
    [segment] = (shop.folder / "log").glob("*.jsonl")
    segment.unlink()
    shop.now += timedelta(days=1)
    shop.accept("new")
    shop.start().catch_up()
    assert shop.store.pushed == ["old", "new"]
    assert "Instead, what arrived since the last load of the online store is pushed" in caplog.text


def test_while_the_store_is_down_nothing_counts_as_pushed(shop):
    shop.accept("a")
    shop.store.problem = StoreError("down")
    with pytest.raises(StoreError):
        shop.start().catch_up()
    shop.store.problem = None
    assert shop.start().catch_up() == 1


def test_a_user_whose_state_is_damaged_does_not_hold_up_the_log(shop, caplog):
    shop.accept("a")
    shop.store.problem = DamagedStateError("rubbish")
    shop.start().catch_up()
    shop.store.problem = None
    assert shop.start().catch_up() == 0
    assert "rubbish" in caplog.text


def test_a_damaged_checkpoint_is_none(shop):
    shop.accept("a")
    shop.start().catch_up()
    (shop.folder / "pushed_until.json").write_bytes(b"\xff{")
    assert shop.start().catch_up() == 1


def test_one_process_follows_and_another_takes_over(shop, caplog):
    caplog.set_level(logging.WARNING)
    first, second = shop.start(interval_s=0.01), shop.start(interval_s=0.01)
    first.start()
    shop.accept("a")
    wait_until(lambda: shop.store.pushed == ["a"])
    second.start()
    shop.store.problem = StoreError("down")
    shop.accept("b")
    wait_until(lambda: "not brought up to date, which is tried again: down" in caplog.text)
    shop.store.problem = None
    wait_until(lambda: shop.store.pushed == ["a", "b"])
    first.close()
    shop.accept("c")
    wait_until(lambda: shop.store.pushed == ["a", "b", "c"])
    second.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "catching-up"]


def wait_until(condition) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)
