"""Deploying: checked first, then one small file moves."""

from datetime import UTC, datetime

import numpy as np
import pytest

from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.places import Places
from pipelines.schemas import Deployment
from pipelines.steps.deploy_bundle import deploy_bundle
from pipelines.stores.serving_pointer import read_pointer
from tests.toys.toy_bundle import ITEMS, write_toy_bundle

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def places(tmp_path) -> Places:
    places = Places(tmp_path)
    for bundle in ("b1", "b2"):
        write_toy_bundle(places.bundles / bundle)
    return places


def deploy(places: Places, bundle: str) -> Deployment:
    return deploy_bundle(
        bundle, bundles_dir=places.bundles, current_bundle=places.current_bundle, serving=ServingConfig(), now=NOW
    )


def test_the_pointer_moves_and_remembers_the_bundle_before(places):
    assert deploy(places, "b1").previous is None
    deployment = deploy(places, "b2")
    assert (deployment.bundle, deployment.previous) == ("b2", "b1")
    assert deployment.checked["files"] == "27 files have the SHA-256 of the manifest"
    assert deployment.checked["search 'rye bread'"] == "5 items"
    pointer = read_pointer(places.current_bundle)
    assert pointer is not None
    assert (pointer.bundle, pointer.folder, pointer.deployed_at) == ("b2", places.bundles / "b2", NOW)


def test_deploying_twice_is_deploying_once(places):
    deploy(places, "b1")
    first = deploy(places, "b2")
    written = places.current_bundle.read_bytes()
    assert deploy(places, "b2") == first
    assert places.current_bundle.read_bytes() == written


@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json"])
def test_a_corrupt_bundle_leaves_the_live_one(places, name):
    deploy(places, "b1")
    path = places.bundles / "b2" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=name):
        deploy(places, "b2")
    pointer = read_pointer(places.current_bundle)
    assert pointer is not None
    assert pointer.bundle == "b1"


def test_a_bundle_that_answers_nothing_leaves_the_live_one(places):
    deploy(places, "b1")
    sold_out = ITEMS.set_column(ITEMS.column_names.index("available"), "available", [np.array([False] * 6)])
    write_toy_bundle(places.bundles / "b3", items=sold_out)
    with pytest.raises(BundleError, match=r"search 'red apple' with 0 items.*The live bundle stays"):
        deploy(places, "b3")


def test_a_broken_pointer_is_replaced(places):
    places.current_bundle.parent.mkdir()
    places.current_bundle.write_text("{")
    assert deploy(places, "b1").previous is None
    assert read_pointer(places.current_bundle) is not None
