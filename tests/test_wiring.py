"""What `run_step` does around a step."""

import errno
import fcntl
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from bentos.recommender.bundles.live_bundle import LiveBundle
from pipelines.config import HeadraceConfig, TrainingConfig
from pipelines.errors import DivergenceError, HeadraceError, StoreError
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.schemas import Record
from pipelines.stores.step_records import StepRecords
from pipelines.wiring import FEATURE_STEPS, STEPS, NothingNew, Wiring, run_step
from tests.toys.catalogue import toy_tables
from tests.toys.event_tables import day, event, tables_with
from tests.toys.toy_bundle import write_toy_bundle
from tests.toys.training_set import toy_rows, write_training_set


class Waited:
    """Notices that a step waits."""

    def __init__(self) -> None:
        self.said = threading.Event()

    def update(self, stage: str, done: int, total: int | None = None, note: str = "") -> None:
        if stage == "waiting":
            self.said.set()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), id="the system"),
        pytest.param(RuntimeError("IO Error: Could not write file: No space left on device"), id="a library"),
    ],
)
def test_a_full_disk_is_a_sentence_and_worth_a_retry(tmp_path, monkeypatch, error):
    def full(wiring):
        raise error

    monkeypatch.setitem(STEPS, "build_bento", full)
    with pytest.raises(StoreError, match=r"build_bento found no room on the disk below .*: nothing half-written"):
        run_step("build_bento", wiring=Wiring(Places(tmp_path), HeadraceConfig(), Waited()))


def test_steps_of_the_feature_pipeline_are_steps():
    assert set(FEATURE_STEPS) <= set(STEPS)


def test_a_step_waits_for_another_of_the_feature_pipeline(tmp_path):
    progress = Waited()
    wiring = Wiring(Places(tmp_path), HeadraceConfig(), progress)
    with ThreadPoolExecutor(1) as pool:
        with wiring.places.feature_pipeline_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            step = pool.submit(run_step, "validate_tables", wiring=wiring)
            assert progress.said.wait(20)
            assert not step.done()
        with pytest.raises(HeadraceError, match="ingest_tables has never finished"):
            step.result(20)


def test_a_step_that_failed_lets_the_next_one_in(tmp_path):
    progress = Waited()
    wiring = Wiring(Places(tmp_path), HeadraceConfig(), progress)
    for _ in range(2):
        with pytest.raises(HeadraceError, match="ingest_tables has never finished"):
            run_step("validate_tables", wiring=wiring)
    assert not progress.said.is_set()


@pytest.mark.slow
def test_training_that_diverged_is_a_no_of_the_gate(tmp_path, empty_mlflow, tiny_encoder_folder):
    places = Places(tmp_path)
    places.mlflow.mkdir()
    shutil.copy(empty_mlflow / "mlflow.db", places.mlflow)
    toy_tables(tmp_path)
    diverging = TrainingConfig(
        encoder=str(tiny_encoder_folder),
        encoder_steps=8,
        encoder_batch=8,
        encoder_learning_rate=1e30,
        frozen_layers=0,
        max_tokens=16,
    )
    wiring = Wiring(places, HeadraceConfig(training=diverging), SilentProgress())
    wiring.records.save("run-1", "build_training_set", write_training_set(places.training / "run-1", toy_rows()))
    with pytest.raises(DivergenceError) as stopped:
        run_step("finetune_model", wiring=wiring)
    decision = run_step("promote_challenger", wiring=wiring, run="run-1")
    assert not decision["promoted"]
    assert decision["reasons"] == [f"there is no challenger: {stopped.value}"]
    assert wiring.registry.champion() is None
    assert run_step("promote_challenger", wiring=wiring) == decision


def test_the_gate_judges_the_newest_run_even_if_its_training_diverged(tmp_path):
    records = StepRecords(tmp_path)

    def save(run, step, at):
        records.save(run, step, Record())
        os.utime(tmp_path / run / f"{step}.json", (at, at))

    save("old", "evaluate_model", 1)
    save("old", "promote_challenger", 2)
    save("diverged", "promote_challenger", 3)
    assert records.latest("evaluate_model", instead="promote_challenger") == "diverged"
    save("old", "promote_challenger", 4)  # by hand: it was evaluated long ago
    assert records.latest("evaluate_model", instead="promote_challenger") == "diverged"
    save("new", "evaluate_model", 5)
    assert records.latest("evaluate_model", instead="promote_challenger") == "new"


def test_a_bundle_goes_live_with_the_items_that_arrived_while_it_was_made(tmp_path):
    places = Places(tmp_path)
    write_toy_bundle(places.bundles / "b1")
    tables_with(places.home, [event("u", "rye milk", day(1))], until=day(2))
    run_step("deploy_bundle", bundle="b1", wiring=Wiring(places, HeadraceConfig(), SilentProgress()))
    assert LiveBundle(places, {}).current.bundle.row_of("rye milk") is not None


def test_a_champion_that_no_version_serves_any_more_is_trained_again_though_nothing_is_new(tmp_path, monkeypatch):
    places, read = Places(tmp_path), []
    write_toy_bundle(places.bundles / "b1")
    tables_with(places.home, [event("u", "rye milk", day(1))], until=day(2))
    wiring = Wiring(places, HeadraceConfig(), SilentProgress())
    wiring.registry = SimpleNamespace(champion=lambda: SimpleNamespace(run="b1", bundle="b1"))
    wiring.feature_store = None
    monkeypatch.setattr("pipelines.training.receipt.find_receipt", lambda folder: f"receipt of {folder.parent.name}")

    def build(**given):
        read.append((given["champion"], given["parent"]))
        return SimpleNamespace(run="b1")

    monkeypatch.setattr("pipelines.steps.build_training_set.build_training_set", build)
    step = STEPS["build_training_set"]
    step(wiring)
    with pytest.raises(NothingNew, match="Nothing new: champion b1"):
        step(wiring)
    manifest = places.bundles / "b1" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 3}))
    step(wiring)
    assert read == [("b1", "receipt of b1"), ("b1", None)]
