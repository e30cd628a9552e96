"""Which bundle answers, and how it is replaced."""

import threading
from datetime import UTC, datetime

import numpy as np
import pytest

from bentos.recommender.live_bundle import LiveBundle, QueryCache, find_bundle
from pipelines.errors import BundleError, ConfigError
from pipelines.places import Places
from pipelines.stores.serving_pointer import ServingPointer, write_pointer
from tests.toys.toy_bundle import write_toy_bundle


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
