"""Deploying: checked first, then one small file moves, then the running services are waited for."""

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.rehearsal import rehearse
from pipelines.config import DeploymentConfig, ServingConfig
from pipelines.errors import BundleError, ConfigError, StoreError
from pipelines.inference.manifest import read_manifest
from pipelines.places import Places
from pipelines.schemas import Deployment, Rehearsal
from pipelines.steps.deploy_bundle import deploy_bundle
from pipelines.stores.service_status import StatusFile
from pipelines.stores.serving_pointer import ServingPointer, read_pointer
from tests.toys.toy_bundle import write_toy_bundle

NOW = datetime(2026, 3, 1, tzinfo=UTC)
IN_THIS_PROCESS = partial(rehearse, requests=(), serving=ServingConfig())


@pytest.fixture
def places(tmp_path) -> Places:
    places = Places(tmp_path)
    for bundle in ("b1", "b2", "b3"):
        write_toy_bundle(places.bundles / bundle)
    return places


def deploy(places: Places, bundle: str, *, rehearse=IN_THIS_PROCESS, **settings: float) -> Deployment:
    return deploy_bundle(bundle, places=places, config=DeploymentConfig(**settings), now=NOW, rehearse=rehearse)


def pointer_of(places: Places) -> ServingPointer:
    pointer = read_pointer(places.current_bundle)
    assert pointer is not None
    return pointer


def test_the_pointer_moves_and_remembers_the_bundle_before(places):
    assert deploy(places, "b1").previous is None
    deployment = deploy(places, "b2")
    assert (deployment.bundle, deployment.previous) == ("b2", "b1")
    assert (deployment.services, deployment.swap_s) == ((), None)
    n_files = len(read_manifest(places.bundles / "b2").files)
    assert deployment.checked["files"] == f"{n_files} files have the SHA-256 of the manifest"
    assert deployment.checked["search 'rye bread'"] == "5 items"
    assert deployment.checked["kept requests"] == "0 answered"
    pointer = pointer_of(places)
    assert (pointer.bundle, pointer.folder, pointer.deployed_at) == ("b2", places.bundles / "b2", NOW)


def test_deploying_twice_is_deploying_once(places):
    deploy(places, "b1")
    first = deploy(places, "b2")
    written = places.current_bundle.read_bytes()
    assert deploy(places, "b2").model_copy(update={"checked": first.checked}) == first
    assert places.current_bundle.read_bytes() == written


@pytest.mark.parametrize("rehearsal", [IN_THIS_PROCESS, None], ids=["promotion", "rollback"])
@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json"])
def test_a_corrupt_bundle_leaves_the_live_one(places, name, rehearsal):
    deploy(places, "b1")
    path = places.bundles / "b2" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=name):
        deploy(places, "b2", rehearse=rehearsal)
    assert pointer_of(places).bundle == "b1"


def test_a_bundle_that_is_too_slow_leaves_the_live_one(places):
    deploy(places, "b1")
    slow = Rehearsal(checked={}, replayed=10, left_out=0, median_ms=101.0, p95_ms=120.0)
    with pytest.raises(BundleError, match=r"b2 takes 101\.0 ms .* at the median, at most 100 ms are allowed"):
        deploy(places, "b2", rehearse=lambda _: slow)
    assert pointer_of(places).bundle == "b1"


def test_a_rollback_during_the_rehearsal_stays(places):
    for bundle in ("b1", "b2"):
        deploy(places, bundle)

    def roll_back_meanwhile(folder: Path) -> Rehearsal:
        deploy(places, "b1", rehearse=None)
        return IN_THIS_PROCESS(folder)

    with pytest.raises(ConfigError, match=r"While the bundle b3 rehearsed, b1 went live in place of b2: that stays"):
        deploy(places, "b3", rehearse=roll_back_meanwhile)
    assert pointer_of(places).bundle == "b1"


def test_a_broken_pointer_is_replaced(places):
    places.current_bundle.parent.mkdir()
    places.current_bundle.write_text("{")
    assert deploy(places, "b1").previous is None
    assert read_pointer(places.current_bundle) is not None


def test_each_rollback_goes_further_back(places):
    for bundle in ("b1", "b2", "b3"):
        deploy(places, bundle)
    assert pointer_of(places).before == ("b1", "b2")
    deploy(places, "b2", rehearse=None)
    assert (pointer_of(places).previous, pointer_of(places).before) == ("b3", ("b1",))
    deploy(places, "b1", rehearse=None)
    assert pointer_of(places).before == ()
    deploy(places, "b3")
    assert pointer_of(places).before == ("b1",)


@pytest.fixture
def service(places):
    """The part of the service that follows the pointer, in this process."""
    deploy(places, "b1")
    live = LiveBundle(places, {})
    live.start()
    yield live
    live.close()


def test_it_waits_until_the_service_answers_from_the_bundle(places, service):
    deployment = deploy(places, "b2")
    assert service.current.bundle.bundle_id == "b2"
    assert [name.endswith(f"-{os.getpid()}") for name in deployment.services] == [True]
    assert deployment.swap_s is not None
    assert deployment.swap_s > 0


def test_where_the_service_cannot_open_the_bundle_the_pointer_goes_back(places, service):
    def break_afterwards(folder: Path) -> Rehearsal:
        found = IN_THIS_PROCESS(folder)
        (folder / "encoder.onnx").write_bytes(b"")
        return found

    with pytest.raises(BundleError, match=r"cannot open the bundle b2 .*encoder\.onnx.* the pointer is back on b1"):
        deploy(places, "b2", rehearse=break_afterwards)
    assert pointer_of(places).bundle == "b1"
    assert service.current.bundle.bundle_id == "b1"


def test_a_service_that_does_not_follow_is_named(places):
    deploy(places, "b1")
    StatusFile(places.services).write(bundle="b1", since=NOW)
    with pytest.raises(StoreError, match=r"did not answer from the bundle b2 within 0\.2 s \(still from b1\)"):
        deploy(places, "b2", swap_timeout_s=0.2)
    assert pointer_of(places).bundle == "b2"
