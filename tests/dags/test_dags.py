"""The DAG files as Airflow reads them. Airflow runs in a process of its own: it changes logging and warnings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.airflow_home import DAGS, airflow_environment
from pipelines.loop import PIPELINES
from pipelines.places import Places

pytestmark = pytest.mark.slow

DESCRIBE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
began = time.perf_counter()
bag = DagBag(dag_folder=sys.argv[1])
seconds = time.perf_counter() - began
dags = {
    name: {
        "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
        "retries": {task.task_id: task.retries for task in dag.tasks},
        "outlets": {task.task_id: [asset.name for asset in task.outlets] for task in dag.tasks if task.outlets},
        "timetable": type(dag.timetable).__name__,
        "params": sorted(dag.params),
        "doc": dag.doc_md,
        "catchup": dag.catchup,
        "active": dag.max_active_runs,
    }
    for name, dag in bag.dags.items()
}
heavy = [name for name in ("pipelines", "torch", "feast", "mlflow", "duckdb", "pandas") if name in sys.modules]
print(json.dumps({"errors": bag.import_errors, "dags": dags, "heavy": heavy, "seconds": seconds}))
"""


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, str(DAGS)],
        env=airflow_environment(Places(home)),
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_every_dag_file_is_read_without_error(bag):
    assert bag["errors"] == {}
    assert set(bag["dags"]) == {path.stem for path in Path(DAGS).glob("*.py")}


def test_reading_the_dags_is_quick_and_brings_nothing_of_ours(bag):
    assert bag["heavy"] == []
    assert bag["seconds"] < 5


@pytest.mark.parametrize("name", PIPELINES)
def test_tasks_stand_in_a_row_in_the_order_of_the_steps(bag, name):
    steps = PIPELINES[name]
    expected = {step: [before] if before else [] for step, before in zip(steps, ("", *steps[:-1]), strict=True)}
    assert bag["dags"][name]["tasks"] == expected


def test_rollback_moves_the_alias_and_deploys(bag):
    assert bag["dags"]["rollback"]["tasks"] == {"rollback_champion": [], "deploy_bundle": ["rollback_champion"]}
    assert bag["dags"]["rollback"]["retries"]["rollback_champion"] == 0
    assert bag["dags"]["rollback"]["params"] == ["to"]


def test_monitoring_audits_the_served_features_every_day(bag):
    assert bag["dags"]["monitoring"]["tasks"] == {"audit_skew": []}
    assert bag["dags"]["monitoring"]["timetable"] == bag["dags"]["training_pipeline"]["timetable"]


def test_a_new_champion_wakes_the_deployment(bag):
    assert bag["dags"]["training_pipeline"]["outlets"] == {"promote_challenger": ["champion"]}
    assert bag["dags"]["deployment_pipeline"]["timetable"] == "AssetTriggeredTimetable"
    assert bag["dags"]["feature_pipeline"]["outlets"] == {
        "validate_tables": ["tables"],
        "materialize_features": ["features"],
    }


def test_training_takes_parameters_by_hand(bag):
    assert bag["dags"]["training_pipeline"]["params"] == [
        "encoder_steps",
        "force",
        "from_scratch",
        "tower_steps",
        "until",
        "window_days",
    ]


@pytest.mark.parametrize("path", sorted(Path(DAGS).glob("*.py")), ids=lambda path: path.stem)
def test_docs_say_what_to_do_when_it_fails_and_runs_never_overlap(bag, path):
    dag = bag["dags"][path.stem]
    assert "**When it fails**" in dag["doc"]
    assert dag["catchup"] is False
    assert dag["active"] == 1


@pytest.mark.parametrize("path", sorted(Path(DAGS).glob("*.py")), ids=lambda path: path.stem)
def test_no_dag_asks_for_the_logical_date(path):
    """Runs started by hand have none."""
    text = path.read_text(encoding="utf-8")
    assert "logical_date" not in text
    assert "{{" not in text
