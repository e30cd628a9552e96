"""Items that come in while the service answers: at once, in every worker, over swaps and restarts."""

import gc
import json
import time
import weakref
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import ValidationError

from bentos.recommender.answering.answers import Answers
from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.bundles.serving import open_serving
from bentos.recommender.contract.requests import (
    DeleteItemBody,
    FiltersBody,
    ItemsBody,
    RecommendBody,
    RequestError,
    SearchBody,
    SimilarBody,
    parse,
)
from pipelines.config import ServingConfig, ValidationConfig
from pipelines.inference.bundle import load_bundle
from pipelines.inference.bundle_writing import default_texts
from pipelines.inference.new_items import NewItems
from pipelines.places import Places
from pipelines.pseudonyms import Pseudonymizer
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.stores.event_log import EventLog
from pipelines.stores.item_log import ItemLog
from pipelines.stores.new_items_store import write_new_items
from pipelines.stores.serving_pointer import ServingPointer, write_pointer
from tests.toys.toy_bundle import User, new_items_table, one_hot, write_backward_tower, write_toy_bundle

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class OatMilkDrinkers:
    """A feature store in which everybody has looked at oat milk."""

    is_shared = False

    def stamp(self, user_id: str) -> None:
        return None

    def read_user(self, user_id: str) -> User:
        return User(["e"], ["view"], [int(NOW.timestamp()) - 60])

    def push_at_once(self, events) -> None:
        """Pushes are waited for on another thread."""

    def push_events(self, events) -> None:
        raise AssertionError("no events here")


class Worker:
    """One process of the service: a live bundle and the answers over it."""

    def __init__(self, places: Places, *, started: bool = False, **serving) -> None:
        self.live = LiveBundle(places, {})
        self.answers = Answers(
            live=self.live,
            features=OatMilkDrinkers(),
            event_log=EventLog(places.event_log),
            pseudonymizer=Pseudonymizer(b"a key for tests, long enough"),
            serving=ServingConfig(exclude_purchased_days=0, **serving),
            validation=ValidationConfig(max_price=1_000),
            now=lambda: NOW,
        )
        if started:
            self.live.start()

    def put(self, *items: dict) -> dict:
        return self.answers.put_items(ItemsBody.model_validate({"items": list(items)}))

    def delete(self, item_id: str) -> dict:
        return self.answers.delete_item(DeleteItemBody(item_id=item_id))

    def follow(self) -> None:
        self.live.follow_items()
        assert self.live.current.items.pending == 0

    def found(self, query: str, k: int = 10, **filters) -> list[str]:
        body = SearchBody(query=query, k=k, filters=FiltersBody(**filters) if filters else None)
        return [item["item_id"] for item in self.answers.search(body)["items"] if item["score"] > 0]

    def everywhere(self) -> set[str]:
        """Return all items that any call shows."""
        answers = [
            self.answers.search(SearchBody(query="red green apple pear bread milk oat rye", k=50)),
            self.answers.recommend(RecommendBody(user_id="ann", k=50)),
            *(self.answers.similar(SimilarBody(item_id=item_id, k=50)) for item_id in "ad"),
        ]
        assert not any(answer["degraded"] for answer in answers)
        return {item["item_id"] for answer in answers for item in answer["items"]}


@pytest.fixture
def places(tmp_path) -> Places:
    places = Places(tmp_path / "home")
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    point_to(places, "b1")
    return places


@pytest.fixture
def worker(places):
    worker = Worker(places)
    yield worker
    worker.answers.close()


def point_to(places: Places, bundle: str) -> None:
    pointer = ServingPointer(bundle=bundle, folder=places.bundles / bundle, deployed_at=NOW)
    write_pointer(places.current_bundle, pointer)


def soon(condition, within_s: float = 5.0) -> bool:
    """Wait until something is so."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_an_item_that_was_put_is_found_recommended_filtered_and_shown(worker):
    answer = worker.put({"item_id": "g", "title": "rye milk", "category": "Drinks", "price": 2.5, "currency": "EUR"})
    assert answer | {"request_id": None} == {
        "accepted": 1,
        "request_id": None,
        "model_version": "b1",
        "degraded": False,
    }
    worker.follow()
    assert worker.found("rye milk")[0] == "g"
    assert worker.found("milk", categories=["drinks"]) == ["g"]
    assert worker.found("milk", min_price=2.4, max_price=2.6) == ["g"]
    shown = worker.answers.search(SearchBody(query="rye milk", k=1))["items"][0]
    assert shown | {"score": 0} == {
        "item_id": "g",
        "title": "rye milk",
        "category": "Drinks",
        "brand": None,
        "price": 2.5,
        "currency": "EUR",
        "score": 0,
    }
    recommended = worker.answers.recommend(RecommendBody(user_id="ann", k=3))
    assert "g" in [item["item_id"] for item in recommended["items"]]
    assert worker.answers.similar(SimilarBody(item_id="e", k=1))["items"][0]["item_id"] == "g"


def test_what_changes_of_an_item_counts_and_what_it_was_does_not(worker):
    worker.put({"item_id": "d", "title": "oat pear", "category": "Fruit", "price": 9.0})
    worker.follow()
    assert "d" not in worker.found("rye bread", k=2)
    assert worker.found("oat pear")[0] == "d"
    assert "d" in worker.found("oat pear", categories=["Fruit"])
    assert worker.found("oat pear", min_price=8.0) == ["d"]
    worker.put({"item_id": "d", "title": "oat pear", "available": False})
    worker.follow()
    assert "d" not in worker.everywhere()


def test_a_deleted_item_is_nowhere_until_it_is_put_again(worker):
    assert {"a", "d"} <= worker.everywhere()
    for _ in range(2):
        assert worker.delete("a")["accepted"] == 1
    assert worker.delete("nobody knows")["accepted"] == 1
    worker.put({"item_id": "g", "title": "red milk"})
    worker.delete("g")
    worker.follow()
    assert not {"a", "g"} & worker.everywhere()
    worker.put({"item_id": "a", "title": "red apple"}, {"item_id": "g", "title": "red milk"})
    worker.follow()
    assert {"a", "g"} <= worker.everywhere()


def test_of_two_states_in_one_call_the_last_counts(worker):
    answer = worker.put({"item_id": "g", "title": "rye milk"}, {"item_id": "g", "title": "oat bread"})
    worker.follow()
    assert answer["accepted"] == 2
    assert worker.found("oat bread")[0] == "g"


def test_every_worker_follows_within_a_second_and_a_restart_knows_it_all(places):
    one, other = Worker(places, started=True), Worker(places, started=True)
    try:
        one.put({"item_id": "g", "title": "rye milk"}, {"item_id": "d", "title": "oat pear"})
        began = time.monotonic()
        assert soon(lambda: one.found("rye milk")[:1] == other.found("rye milk")[:1] == ["g"])
        other.delete("g")
        assert soon(lambda: "g" not in one.everywhere() | other.everywhere())
        assert time.monotonic() - began < 5  # each within one; the machine of the tests may be busy
    finally:
        one.answers.close()
        other.answers.close()
    again = Worker(places)
    assert "g" not in again.everywhere()
    assert again.found("oat pear")[0] == "d"
    again.answers.close()


def test_another_bundle_answers_with_the_items_and_forgets_those_that_its_catalogue_knows(places, worker):
    worker.put({"item_id": "g", "title": "rye milk"})
    cursor = worker.live.item_log.behind(None)[1]
    worker.put({"item_id": "h", "title": "oat pear"})
    worker.delete("a")
    worker.follow()
    point_to(places, "b2")
    assert worker.live.refresh()
    assert worker.found("rye milk")[0] == "g"
    assert "a" not in worker.everywhere()
    write_toy_bundle(places.bundles / "b3", items_cursor=cursor)
    point_to(places, "b3")
    assert worker.live.refresh()
    assert [worker.live.current.bundle.row_of(item_id) for item_id in "agh"] == [0, None, 6]
    assert "a" not in worker.everywhere()
    point_to(places, "b1")  # a rollback: what it did not know counts again
    assert worker.live.refresh()
    assert {"g", "h"} <= worker.everywhere()


def test_a_change_during_a_swap_is_not_lost(places, worker):
    worker.put({"item_id": "g", "title": "rye milk"})
    point_to(places, "b2")
    assert worker.live.refresh()  # nobody has followed the log before
    assert worker.found("rye milk")[0] == "g"


def test_what_the_items_beside_the_bundle_know_is_not_taken_again(places, worker):
    worker.put({"item_id": "rye milk", "title": "another title, from the log"})
    cursor = worker.live.item_log.behind(None)[1]
    items = new_items_table("rye milk")
    texts = default_texts_with(places, items)
    new = NewItems(items, one_hot("rye milk")[None], LexicalIndex.build(texts))
    write_new_items(places.new_items, "b1", new, "one", cursor)
    assert worker.live.refresh()
    assert worker.live.current.bundle.titles[6] == "rye milk"
    worker.put({"item_id": "rye milk", "title": "oat milk"})
    worker.follow()
    assert worker.live.current.bundle.titles[6] == "oat milk"


def default_texts_with(places: Places, items) -> list[str]:
    return [*default_texts(load_bundle(places.bundles / "b1").items), *default_texts(items)]


def test_the_memory_of_changed_bundles_is_given_back(places, worker):
    worker.put({"item_id": "g", "title": "rye milk"})
    worker.follow()
    gone = [weakref.ref(worker.live.current.bundle), weakref.ref(worker.live.current.bundle.item_vectors)]
    worker.put({"item_id": "g", "title": "rye pear"})
    worker.follow()
    assert [one() for one in gone] == [None, None]
    overlay = weakref.ref(worker.live.current.items)
    point_to(places, "b2")
    assert worker.live.refresh()
    gc.collect()
    assert overlay() is None


def test_many_updates_of_one_item_take_one_place(worker):
    for number in range(300):
        worker.put({"item_id": "g", "title": f"rye milk {number}"})
        if number % 50 == 0:
            worker.follow()
    worker.follow()
    assert worker.live.current.items._overlay.changed == 1
    assert worker.live.current.bundle.n_items == 7


def test_many_items_have_vectors_of_the_small_tower_before_those_of_the_encoder(places):
    write_toy_bundle(places.bundles / "b3", item_text_tower=write_backward_tower(places.home / "tower"))
    point_to(places, "b3")
    worker = Worker(places)
    worker.put(*({"item_id": f"n{number}", "title": "oat bread"} for number in range(40)))
    steps = [serving.bundle for serving in worker.live.current.followed()]
    assert [one.n_items for one in steps] == [46, 46, 46]
    changed = worker.live.current.items
    assert (changed.pending, changed._overlay.unread) == (0, 0)
    np.testing.assert_allclose(steps[-1].item_vectors[45], one_hot("oat bread"), atol=1e-6)
    worker.answers.close()


def test_items_have_vectors_of_the_encoder_where_the_small_tower_fails(places, caplog):
    write_toy_bundle(places.bundles / "b3", item_text_tower=write_backward_tower(places.home / "tower"))
    point_to(places, "b3")
    worker = Worker(places)
    worker.live.current.bundle._item_text_tower = FailingTower()
    worker.put(*({"item_id": f"n{number}", "title": "oat bread"} for number in range(40)))
    worker.follow()
    assert "the small tower fails" in caplog.text
    np.testing.assert_allclose(worker.live.current.bundle.item_vectors[45], one_hot("oat bread"), atol=1e-6)
    worker.answers.close()


class FailingTower:
    """A model that fails."""

    def encode(self, texts):
        raise RuntimeError("no memory")


def test_a_canary_and_a_shadow_follow_too(places):
    log = ItemLog(places.item_log)
    serving, _ = open_serving(places.bundles / "b2", places.new_items, log)
    assert serving.newest() is serving
    log.append([{"item_id": "g", "title": "rye milk", "available": True}])
    newest = serving.newest()
    assert newest.bundle.row_of("g") == 6
    assert newest.queries is serving.queries


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        pytest.param([{"title": "x"}], r"items\.0\.item_id.*missing", id="no id"),
        pytest.param(
            [{"item_id": "a", "title": "x"}, {"item_id": "b", "title": " "}], r"`items\.1\.title` is blank", id="blank"
        ),
        pytest.param([{"item_id": "a", "title": "x", "price": 1_001}], r"`items\.0\.price` is 1001", id="price"),
        pytest.param([{"item_id": "a", "title": "x", "price": -1}], r"items\.0\.price", id="negative price"),
        pytest.param([{"item_id": "a", "title": "x" * 10_001}], r"`items\.0\.title` has 10,001 characters", id="long"),
        pytest.param([{"item_id": "a", "title": "x\0"}], r"`items\.0` holds a NUL", id="nul"),
        pytest.param(
            [{"item_id": "a", "title": "x", "attributes": {"size": "y" * 100_000}}],
            r"`items\.0\.attributes`",
            id="attributes",
        ),
        pytest.param(
            [{"item_id": "a", "title": "x", "updated_at": 3}], r"items\.0\.updated_at.*not a field", id="stamp"
        ),
        pytest.param([{"item_id": "a", "title": "x"}] * 3, r"`items` has 3 items, at most 2", id="many"),
        pytest.param([], r"items", id="none"),
    ],
)
def test_a_bad_item_is_refused_with_its_place_and_nothing_is_kept(places, items, sentence):
    worker = Worker(places, max_items=2)
    with pytest.raises(RequestError, match=sentence) as refused:
        worker.answers.put_items(parse(ItemsBody, json.dumps({"items": items}).encode()))
    assert refused.value.status == 422
    assert not places.item_log.exists()
    worker.answers.close()


def test_one_item_may_be_the_body_itself():
    body = ItemsBody.model_validate({"item_id": "a", "title": "red apple"})
    assert [item.item_id for item in body.items] == ["a"]
    with pytest.raises(ValidationError):
        DeleteItemBody(item_id="")


def test_a_disk_that_takes_nothing_fails_items_alone(places, worker):
    places.item_log.write_text("a file stands where the folder should be")
    for call in (lambda: worker.put({"item_id": "g", "title": "rye milk"}), lambda: worker.delete("a")):
        with pytest.raises(RequestError, match="item log") as refused:
            call()
        assert refused.value.status == 503
    worker.live.follow_items()
    assert "a" in worker.everywhere()
