"""The whole loop on the toy shop, as a person runs it: Airflow, Feast, MLflow, Great Expectations, ONNX, BentoML."""

import json
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.commands.demo import curl_line
from pipelines.loop import LoopView, describe
from tests.toys.catalogue import write_csv

ROOT = Path(__file__).parents[1]


@dataclass
class Shop:
    """A home folder, the toy shop's files and the settings that name them."""

    folder: Path
    settings: dict[str, Any]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def headrace(self, *arguments: str, timeout_s: float = 500) -> subprocess.CompletedProcess[str]:
        config = self.folder / "settings.yaml"
        config.write_text(yaml.safe_dump(self.settings), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        return subprocess.run(
            [sys.executable, "-m", "pipelines", *arguments],
            env={**kept, "HEADRACE_HOME": str(self.home), "HEADRACE_CONFIG": str(config)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def tasks(self, dag: str) -> dict[str, tuple[str, int]]:
        """Return state and number of tries of each task in the DAG's newest run, from Airflow's own database."""
        with sqlite3.connect(self.home / "airflow" / "airflow.db") as database:
            rows = database.execute(
                "SELECT task_id, state, try_number FROM task_instance WHERE dag_id = ? AND run_id = "
                "(SELECT run_id FROM dag_run WHERE dag_id = ? ORDER BY id DESC LIMIT 1)",
                (dag, dag),
            ).fetchall()
        return {task: (state, tries) for task, state, tries in rows}

    def live(self) -> str | None:
        pointer = self.home / "serving" / "current.json"
        return json.loads(pointer.read_text())["bundle"] if pointer.exists() else None


def new_shop(folder: Path, encoder: Path) -> Shop:
    settings = {
        "source": {"kind": "tables", "mapping": str(write_csv(folder / "shop"))},
        "training": {
            "encoder": str(encoder),
            "encoder_steps": 4,
            "encoder_batch": 8,
            "frozen_layers": 0,
            "tower_steps": 40,
            "tower_batch": 16,
            "negatives": 16,
            "validate_every": 20,
        },
        "compression": {"min_cosine": 0.5, "distillation": {"static_steps": 20}},
        "ranker": {"min_rows": 20, "epochs": 20, "min_steps": 0, "batch": 8, "width": 16},
        "evaluation": {"bootstrap_samples": 100, "latency_requests": 20},
        "promotion": {"floor_cases": ["untouched_encoder"]},
    }
    return Shop(folder, settings)


@pytest.fixture(scope="module")
def looped(tmp_path_factory, tiny_encoder_folder) -> tuple[Shop, subprocess.CompletedProcess[str]]:
    """A shop after its first loop."""
    shop = new_shop(tmp_path_factory.mktemp("toy"), tiny_encoder_folder)
    return shop, shop.headrace("loop")


@pytest.mark.slow
def test_first_loop_makes_a_champion_and_deploys_it(looped):
    shop, done = looped
    assert done.returncode == 0, done.stderr
    assert shop.live() is not None
    for dag in ("feature_pipeline", "training_pipeline", "deployment_pipeline"):
        assert set(shop.tasks(dag).values()) == {("success", 1)}, dag
    assert "accepted 60 items, 1,500 events, 30 users" in done.stderr
    assert f"live: {shop.live()}" in done.stderr


@pytest.mark.slow
def test_no_raw_user_id_is_left_on_disk(looped):
    shop, _ = looped
    named = [path for path in shop.home.rglob("*") if path.is_file() and b"customer 7" in path.read_bytes()]
    assert named == []


@pytest.mark.slow
def test_second_loop_finds_nothing_new(looped):
    shop, _ = looped
    live = shop.live()
    done = shop.headrace("loop")
    assert done.returncode == 0, done.stderr
    assert {state for state, _ in shop.tasks("training_pipeline").values()} == {"skipped"}
    assert f"Nothing new: champion {live} was trained on these tables" in done.stderr
    assert shop.live() == live


@pytest.mark.slow
def test_demo_serves_without_training_and_the_recommendation_changes(looped):
    shop, _ = looped
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--exit", "--user", "customer 3", "--query", "kibble pets"]
    done = shop.headrace("demo", *options, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert f"Bundle {shop.live()} is live already: no training" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("curl ")]
    assert [shlex.split(line)[2].rsplit("/", 1)[1] for line in lines] == ["search", "recommend", "events", "recommend"]
    assert '{"accepted": 4' in done.stdout
    assert "of 5 items are new; 1 just bought is left out" in done.stdout


@pytest.mark.slow
def test_a_refused_challenger_is_shown_as_skipped_and_the_champion_stays(looped):
    shop, _ = looped
    live = shop.live()
    shop.settings = {
        **shop.settings,
        "training": {**shop.settings["training"], "seed": 14},
        "promotion": {"floor_cases": [], "min_gain": 0.9},
    }
    twice = shop.headrace("build_training_set")
    assert twice.returncode == 1
    assert f"would be read a second time: model {live} has read everything up to" in twice.stderr
    done = shop.headrace("loop", "--from-scratch")
    assert done.returncode == 0, done.stderr
    tasks = shop.tasks("training_pipeline")
    assert tasks.pop("promote_challenger") == ("skipped", 1)
    assert set(tasks.values()) == {("success", 1)}
    assert "the champion stays" in done.stderr
    assert shop.live() == live
    by_hand = shop.headrace("promote_challenger")
    assert by_hand.returncode == 1
    assert json.loads(by_hand.stdout)["champion"] == live


@pytest.mark.slow
def test_bad_data_stops_the_loop_at_once_with_one_sentence(tmp_path, tiny_encoder_folder):
    shop = new_shop(tmp_path, tiny_encoder_folder)
    items = tmp_path / "shop" / "items.csv"
    items.write_text(items.read_text().replace("sku,", "number,", 1))
    done = shop.headrace("loop")
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1
    assert "ingest_tables failed" in error[0]
    assert "sku" in error[0]
    assert shop.tasks("feature_pipeline") == {
        "ingest_tables": ("failed", 1),
        "validate_tables": ("upstream_failed", 0),
        "build_features": ("upstream_failed", 0),
        "materialize_features": ("upstream_failed", 0),
        "embed_new_items": ("upstream_failed", 0),
    }
    assert shop.live() is None


def test_a_second_loop_in_the_same_home_is_refused(tmp_path):
    import fcntl

    (tmp_path / "home" / "loop").mkdir(parents=True)
    with (tmp_path / "home" / "loop" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = Shop(tmp_path, {}).headrace("loop")
    assert done.returncode == 1
    assert "Another loop runs in" in done.stderr
    assert done.stderr.count("\n") == 1


def test_progress_lines_become_a_view_of_the_steps():
    view = LoopView()
    view.read('{"step": "ingest_tables", "state": "started"}')
    view.read('{"stage": "reading", "done": 3, "total": 4, "note": ""}')
    step = view.steps["ingest_tables"]
    assert (step.state, step.stage, step.done, step.total) == ("started", "reading", 3, 4)
    view.read('{"step": "ingest_tables", "state": "finished", "seconds": 2.5, "record": {"rows": {"items": 1200}}}')
    assert (step.state, step.seconds, step.outcome) == ("finished", 2.5, "read 1,200 items")
    assert view.read("half a li") is None


@pytest.mark.parametrize(
    ("step", "record", "said"),
    [
        pytest.param("ingest_tables", {"rows": {}}, "read nothing new", id="empty window"),
        pytest.param(
            "validate_tables",
            {"accepted": {"items": 5}, "quarantined": {"items": 1, "events": 2}},
            "accepted 5 items; quarantined 3",
            id="quarantine",
        ),
        pytest.param(
            "promote_challenger",
            {"promoted": False, "bundle": "b", "reasons": ["too slow", "too large"]},
            "the champion stays: too slow; too large",
            id="refused",
        ),
        pytest.param("evaluate_model", {}, "", id="record of another version"),
    ],
)
def test_a_step_says_in_one_line_what_it_produced(step, record, said):
    assert describe(step, record) == said


def test_curl_line_survives_a_shell():
    words = shlex.split(curl_line("http://127.0.0.1:3000/search", {"query": "o'brien's \"best\" $HOME"}))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:3000/search"]
    assert json.loads(words[-1]) == {"query": "o'brien's \"best\" $HOME"}
