"""The experiment tracker on a real MLflow with SQLite."""

import json
import math
import time

import pytest

from pipelines.errors import StoreError
from pipelines.schemas import Metric
from pipelines.stores.data_log import log_window
from pipelines.stores.experiment_tracker import ExperimentTracker, metric_key
from pipelines.stores.mlflow_client import MlflowBackend
from pipelines.stores.mlflow_view import runs_address
from pipelines.stores.system_metrics import are_wanted

pytestmark = pytest.mark.slow


@pytest.fixture
def tracker(mlflow_folder):
    return ExperimentTracker(mlflow_folder)


@pytest.fixture
def backend(mlflow_folder):
    return MlflowBackend(mlflow_folder)


def read(backend, run, step=None):
    return backend.client.get_run(backend.find_run(run, step))


def test_metric_names_use_the_characters_that_mlflow_allows():
    assert metric_key("headrace.recall@10") == "headrace.recall_at_10"
    assert metric_key("p50 (ms)") == "p50 _ms_"
    assert metric_key("category Food // Drinks.recall@10") == "category Food __ Drinks.recall_at_10"
    assert len(metric_key("x" * 999)) < 250


def test_the_page_of_the_experiment_is_set_up_and_what_a_person_wrote_there_stays(mlflow_folder):
    client = MlflowBackend(mlflow_folder).client
    made = client.create_experiment("headrace", tags={"mlflow.note.content": "mine"})  # by an earlier version
    assert MlflowBackend(mlflow_folder).experiment_id == made
    tags = client.get_experiment(made).tags
    assert tags["mlflow.note.content"] == "mine"
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    address = runs_address("http://127.0.0.1:5000", made)
    view = address.partition("viewStateShareKey=")[2]
    assert "metrics.`recall_at_10`" in json.loads(tags[f"mlflow.sharedViewState.{view}"])["selectedColumns"]


def test_the_run_of_the_data_says_what_it_is_and_does_not_look_as_if_it_ran(tracker, backend):
    assert log_window(tracker, number=1, metrics={"events.rows": 5.0}, files=()) is None
    run = read(backend, "data")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"].startswith("No training")


def test_a_step_is_a_child_of_its_training_run(tracker, backend):
    with tracker.step("run1", "finetune_model") as log:
        log.params({"tower_steps": 1500})
    child, parent = read(backend, "run1", "finetune_model"), read(backend, "run1")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.run_name, parent.info.run_name) == ("finetune_model run1", "run1")
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert child.data.params == {"tower_steps": "1500"}


def test_a_step_that_runs_twice_leaves_one_child_and_one_point_a_step(tracker, backend):
    for steps_done in (2, 3):  # the first attempt was killed after two steps, the second starts again
        with tracker.step("run1", "finetune_model") as log:
            for step in range(steps_done):
                log.metric("loss", 1 / (step + 1), step=step)
    runs = backend.client.search_runs([backend.experiment_id])
    assert len(runs) == 2
    history = backend.client.get_metric_history(backend.find_run("run1", "finetune_model"), "loss")
    assert sorted((point.step, point.value) for point in history) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_nan_is_logged_once(tracker, backend):
    for _ in range(2):
        with tracker.step("run1", "finetune_model") as log:
            log.metric("loss", math.nan, step=4)
    history = backend.client.get_metric_history(backend.find_run("run1", "finetune_model"), "loss")
    assert len(history) == 1


def test_a_metric_keeps_its_interval(tracker, backend):
    with tracker.step("run1", "evaluate_model") as log:
        log.metrics({"recall@10": Metric(value=0.2, low=0.1, high=0.3), "size_mib": 40.0}, prefix="headrace.")
    assert read(backend, "run1", "evaluate_model").data.metrics == {
        "headrace.recall_at_10": 0.2,
        "headrace.recall_at_10.low": 0.1,
        "headrace.recall_at_10.high": 0.3,
        "headrace.size_mib": 40.0,
    }


def test_a_changed_setting_starts_the_step_afresh(tracker, backend):
    with tracker.step("run1", "finetune_model") as log:
        log.params({"tower_steps": 100})
        log.metric("loss", 9.0, step=0)
    with tracker.step("run1", "finetune_model") as log:
        log.params({"tower_steps": 200})
        log.metric("loss", 8.0, step=0)
    found = read(backend, "run1", "finetune_model")
    assert found.data.params == {"tower_steps": "200"}
    assert found.data.metrics == {"loss": 8.0}
    assert found.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")], ids=["error", "interruption"]
)
def test_a_step_that_ends_badly_says_so(tracker, backend, error, status):
    with pytest.raises(type(error)), tracker.step("run1", "evaluate_model"):
        raise error
    assert read(backend, "run1", "evaluate_model").info.status == status
    assert read(backend, "run1").info.status == status
    with tracker.step("run1", "evaluate_model"):
        assert read(backend, "run1", "evaluate_model").info.status == "RUNNING"
    assert read(backend, "run1").info.status == "FINISHED"


def test_a_data_set_is_logged_with_its_whole_fingerprint(tracker, backend):
    fingerprint = "0123456789abcdef" * 4
    for _ in range(2):
        with tracker.step("run1", "finetune_model") as log:
            log.dataset("training_set", fingerprint, rows=3, source="training/run1")
    found = read(backend, "run1", "finetune_model")
    [data_set] = found.inputs.dataset_inputs
    assert (data_set.dataset.name, data_set.dataset.digest) == ("training_set", fingerprint[:36])
    assert data_set.dataset.profile == '{"num_rows": 3}'
    assert found.data.tags["dataset.training_set.fingerprint"] == fingerprint


def test_texts_files_and_pictures_become_artifacts(tracker, backend, tmp_path, mlflow_folder):
    from matplotlib.figure import Figure

    report = tmp_path / "report.html"
    report.write_text("<p>fine</p>")
    with tracker.step("run1", "evaluate_model") as log:
        log.text("hello", "notes/a.txt")
        log.artifact(report, "report")
        log.figure(Figure(figsize=(1, 1)), "empty.png")
    run_id = backend.find_run("run1", "evaluate_model")
    paths = {
        entry.path for folder in ("notes", "report", "plots") for entry in backend.client.list_artifacts(run_id, folder)
    }
    assert paths == {"notes/a.txt", "report/report.html", "plots/empty.png"}
    assert list((mlflow_folder / "artifacts").rglob("report.html"))


def test_a_broken_database_is_named_with_the_next_action(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is not a database " * 100)
    with pytest.raises(StoreError, match=r"MLflow did not open sqlite:.*not a database.*run the same command again"):
        ExperimentTracker(tmp_path).parent("run1")


def test_the_machine_is_watched_while_a_step_runs(tracker, backend, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with tracker.step("run1", "finetune_model") as log:
        deadline = time.monotonic() + 20
        while not any(name.startswith("system") for name in read(backend, "run1", "finetune_model").data.metrics):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        log.metric("loss", 1.0)
    metrics = read(backend, "run1", "finetune_model").data.metrics
    assert metrics["loss"] == 1
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100


def test_the_machine_is_not_watched_where_somebody_switched_that_off():
    assert are_wanted({})
    assert not are_wanted({"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "False"})


def test_a_run_can_be_renamed_and_keeps_its_facts(tracker, backend):
    for rows in (7, 8):
        parent = tracker.parent("run1")
        parent.rename("from zero, rows until 2026-01-22")
        parent.facts({"rows_train": rows})
    found = read(backend, "run1")
    assert found.info.run_name == "from zero, rows until 2026-01-22"
    assert found.data.params == {"rows_train": "7"}
