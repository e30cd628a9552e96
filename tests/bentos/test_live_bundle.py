"""Which bundle answers, and how it is replaced."""

import gc
import threading
import weakref
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from bentos.recommender.bundles.live_bundle import LiveBundle, find_bundle
from bentos.recommender.bundles.serving import QueryCache
from pipelines.errors import BundleError, ConfigError
from pipelines.inference.bundle import load_bundle
from pipelines.inference.bundle_writing import default_texts
from pipelines.inference.new_items import NewItems
from pipelines.places import Places
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.stores.new_items_store import remove_new_items, write_new_items
from pipelines.stores.service_status import running_services
from pipelines.stores.serving_pointer import ServingPointer, write_pointer
from tests.toys.toy_bundle import new_items_table, one_hot, write_toy_bundle


@pytest.fixture
def places(tmp_path) -> Places:
    return Places(tmp_path / "home")


def point_to(places: Places, bundle: str) -> None:
    write_pointer(
        places.current_bundle,
        ServingPointer(bundle=bundle, folder=places.bundles / bundle, deployed_at=datetime(2026, 3, 1, tzinfo=UTC)),
    )


def test_a_named_bundle_goes_before_a_deployed_one_before_a_packed_one(places, tmp_path):
    packed = tmp_path / "packed"
    with pytest.raises(ConfigError, match=r"There is no bundle to serve.*Run `headrace loop`"):
        find_bundle(places, {}, packed)
    packed.mkdir()
    assert find_bundle(places, {}, packed) == packed
    point_to(places, "b1")
    assert find_bundle(places, {}, packed) == places.bundles / "b1"
    assert find_bundle(places, {"HEADRACE_BUNDLE": "/named"}, packed).as_posix() == "/named"


def test_a_new_pointer_is_followed_and_a_broken_bundle_is_not(places):
    for bundle in ("b1", "b2", "b3"):
        write_toy_bundle(places.bundles / bundle)
    point_to(places, "b1")
    live = LiveBundle(places, {})
    live.current.queries.put("milk", np.zeros(1))
    assert not live.refresh()
    point_to(places, "b2")
    assert live.refresh()
    assert live.current.bundle.bundle_id == "b2"
    assert live.current.queries.get("milk") is None
    (places.bundles / "b3" / "encoder.onnx").unlink()
    point_to(places, "b3")
    assert not live.refresh()
    places.current_bundle.write_text("{")
    assert not live.refresh()
    assert live.current.bundle.bundle_id == "b2"
    point_to(places, "b1")
    assert live.refresh()


def test_a_reload_tries_again_what_was_refused(places, tmp_path):
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    point_to(places, "b1")
    live = LiveBundle(places, {})
    (places.bundles / "b2" / "encoder.onnx").rename(tmp_path / "encoder.onnx")
    point_to(places, "b2")
    assert not live.refresh()
    (tmp_path / "encoder.onnx").rename(places.bundles / "b2" / "encoder.onnx")
    assert not live.refresh()
    assert live.reload()
    assert live.current.bundle.bundle_id == "b2"
    assert not live.reload()
    assert live.follows
    assert not LiveBundle(places, {"HEADRACE_BUNDLE": str(places.bundles / "b1")}).follows


def test_the_pointer_is_watched_in_the_background(places):
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    point_to(places, "b1")
    live = LiveBundle(places, {})
    live.start()
    point_to(places, "b2")
    swapped = threading.Event()
    for _ in range(100):
        if live.current.bundle.bundle_id == "b2":
            swapped.set()
            break
        swapped.wait(0.05)
    live.close()
    assert swapped.is_set()


def test_a_corrupt_bundle_does_not_start(places):
    write_toy_bundle(places.bundles / "b1")
    (places.bundles / "b1" / "items.parquet").write_bytes(b"")
    point_to(places, "b1")
    with pytest.raises(BundleError, match=r"items\.parquet"):
        LiveBundle(places, {})


def test_the_query_cache_forgets_what_was_asked_longest_ago():
    cache = QueryCache(size=2)
    for query in ("one", "two"):
        cache.put(query, np.ones(1))
    assert cache.get("one") is not None
    cache.put("three", np.ones(1))
    assert cache.get("two") is None
    assert cache.get("one") is not None


def arrive(places: Places, bundle: str, *titles: str) -> None:
    """Put items beside a bundle; an item's id is its title."""
    base = load_bundle(places.bundles / bundle)
    items = new_items_table(*titles)
    new = NewItems(
        items,
        np.stack([one_hot(title) for title in titles]),
        LexicalIndex.build(default_texts(pa.concat_tables([base.items, items]))),
    )
    write_new_items(places.new_items, bundle, new, "-".join(titles))


def test_items_that_arrive_are_taken_over_without_another_bundle(places):
    write_toy_bundle(places.bundles / "b1")
    point_to(places, "b1")
    live = LiveBundle(places, {})
    live.current.queries.put("milk", np.zeros(1))
    arrive(places, "b1", "rye milk")
    assert live.refresh()
    assert live.current.bundle.row_of("rye milk") == 6
    assert live.current.queries.get("milk") is not None
    assert not live.refresh()
    arrive(places, "b1", "rye milk", "oat pear")
    assert live.refresh()
    assert live.current.bundle.row_of("oat pear") == 7
    assert LiveBundle(places, {}).current.bundle.row_of("oat pear") == 7
    remove_new_items(places.new_items, "b1")
    assert live.refresh()
    assert live.current.bundle.n_items == 6


def test_another_bundle_stands_without_the_items_beside_the_old_one(places):
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    point_to(places, "b1")
    arrive(places, "b1", "rye milk")
    live = LiveBundle(places, {})
    point_to(places, "b2")
    assert live.refresh()
    assert (live.current.bundle.bundle_id, live.current.bundle.n_items) == ("b2", 6)


def test_broken_new_items_leave_what_answers_as_it_is(places):
    write_toy_bundle(places.bundles / "b1")
    point_to(places, "b1")
    arrive(places, "b1", "rye milk")
    live = LiveBundle(places, {})
    arrive(places, "b1", "rye milk", "oat pear")
    (places.new_items / "b1.rye milk-oat" / "vectors.npy").write_bytes(b"")
    assert not live.refresh()
    assert live.current.bundle.row_of("rye milk") == 6
    assert LiveBundle(places, {}).current.bundle.n_items == 6


def test_the_old_bundle_is_given_back_without_the_garbage_collector(places):
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    point_to(places, "b1")
    live = LiveBundle(places, {})
    gc.disable()
    try:
        first = weakref.ref(live.current.bundle)
        arrive(places, "b1", "rye milk")
        assert live.refresh()
        assert first() is None
        second = weakref.ref(live.current.bundle)
        point_to(places, "b2")
        assert live.refresh()
        assert second() is None
    finally:
        gc.enable()


def test_the_status_says_which_bundle_answers_and_which_was_refused(places):
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    point_to(places, "b1")
    live = LiveBundle(places, {}, beside=lambda: {"canary": "b3", "shadow": None})
    live.start()
    try:
        [status] = running_services(places.services)
        assert (status.bundle, status.refused, status.canary) == ("b1", None, "b3")
        (places.bundles / "b2" / "encoder.onnx").unlink()
        point_to(places, "b2")
        deadline = threading.Event()
        for _ in range(100):
            [status] = running_services(places.services)
            if status.refused:
                break
            deadline.wait(0.05)
        assert (status.bundle, status.refused) == ("b1", "b2")
        assert "encoder.onnx is missing" in status.reason
    finally:
        live.close()
    assert running_services(places.services) == []
