"""Who is prepared after an event, before they ask; on the toy bundle."""

import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from bentos.recommender.answering.preparing import Preparing
from bentos.recommender.bundles.serving import Serving
from pipelines.config import ServingConfig
from pipelines.inference.bundle import load_bundle
from pipelines.ranking.answers import recommend
from tests.toys.toy_bundle import User, bought, write_toy_bundle

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Shop:
    """A bundle that answers, and what prepares its users."""

    def __init__(self, bundle, **settings) -> None:
        self.settings = ServingConfig(**{"prepared_ahead": 512, **settings})
        self.current = Serving(bundle)
        self.requests = 0
        self.preparing = Preparing(self, self.settings, now=lambda: NOW)
        self.preparing.give_way(lambda: self.requests > 0)

    def answer(self, user: User) -> None:
        prepared = self.current.prepared(self.settings)
        recommend(self.current.bundle, user, k=1, now_s=NOW.timestamp(), serving=self.settings, prepared=prepared)

    def is_prepared(self, user: User) -> bool:
        return self.current.prepared(self.settings).user(self.current.bundle, user) is not None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    write_toy_bundle(folder)
    return load_bundle(folder)


@pytest.fixture
def shop_with(bundle):
    shops = []

    def make(**settings) -> Shop:
        shops.append(Shop(bundle, **settings))
        return shops[-1]

    yield make
    for shop in shops:
        shop.preparing.close()


def becomes_true(says: Callable[[], bool], within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while not says() and time.monotonic() < until:
        time.sleep(0.001)
    return says()


def test_who_was_answered_is_prepared_after_an_event(shop_with):
    shop, before, after = shop_with(), bought("a"), bought("a", "b")
    shop.answer(before)
    shop.preparing.changed(before, after)
    assert becomes_true(lambda: shop.is_prepared(after))


def test_who_was_not_answered_is_not(shop_with):
    shop, known, after, stranger = shop_with(), bought("a"), bought("a", "b"), bought("c")
    shop.answer(known)
    shop.preparing.changed(bought("c"), stranger)
    shop.preparing.changed(known, after)
    assert becomes_true(lambda: shop.is_prepared(after))
    assert not shop.is_prepared(stranger)


def test_requests_come_first(shop_with):
    shop, before, after = shop_with(), bought("a"), bought("a", "b")
    shop.answer(before)
    shop.requests = 1
    shop.preparing.changed(before, after)
    time.sleep(0.02)
    assert not shop.is_prepared(after)
    shop.requests = 0
    assert becomes_true(lambda: shop.is_prepared(after))


def test_of_several_events_the_last_one_counts(shop_with):
    shop, states = shop_with(), [bought("a"), bought("a", "b"), bought("a", "b", "c")]
    shop.answer(states[0])
    shop.requests = 1
    shop.preparing.changed(states[0], states[1])
    shop.preparing.changed(states[1], states[2])
    shop.requests = 0
    assert becomes_true(lambda: shop.is_prepared(states[2]))
    assert not shop.is_prepared(states[1])


def test_of_too_many_the_newest_stay(shop_with):
    shop = shop_with(prepared_ahead=2)
    users = [(bought(name), bought(name, "d")) for name in "abc"]
    for before, _ in users:
        shop.answer(before)
    shop.requests = 1
    for before, after in users:
        shop.preparing.changed(before, after)
    shop.requests = 0
    assert becomes_true(lambda: shop.is_prepared(users[1][1]))
    assert [shop.is_prepared(after) for _, after in users] == [False, True, True]


def test_nobody_is_prepared_where_that_is_off(shop_with):
    shop, before, after = shop_with(prepared_ahead=0), bought("a"), bought("a", "b")
    shop.answer(before)
    shop.preparing.changed(before, after)
    time.sleep(0.01)
    assert not shop.is_prepared(after)


def test_a_bundle_that_answers_no_more_is_let_go_of(shop_with, bundle):
    shop, before, after = shop_with(), bought("a"), bought("a", "b")
    shop.answer(before)
    shop.preparing.changed(before, after)
    assert becomes_true(lambda: shop.is_prepared(after))
    old = weakref.ref(shop.current)
    shop.current = Serving(bundle)
    assert becomes_true(lambda: old() is None)
