"""Kill every step with SIGKILL and run it again: tables, features, weights, bundle and champion come out the same."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.places import Places
from pipelines.schemas import EvaluationReport, TrainingSet
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.step_records import StepRecords
from tests.toys.catalogue import KEY, write_csv

ROOT = Path(__file__).parents[1]
STEPS = (
    ("ingest_tables", "--until", "2026-03-02T00:00:00"),
    ("validate_tables",),
    ("build_features",),
    ("materialize_features",),
    ("build_training_set",),
    ("finetune_model",),
    ("compress_model",),
    ("evaluate_model",),
    ("promote_challenger",),
    ("build_bento",),
    ("deploy_bundle",),
)
KILLS_AT = (0.55, 0.85)
"""Where a step is killed, as a share of the time that it took undisturbed; it starts with imports."""


def environment(home: Path, config: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    own = {"HEADRACE_HOME": str(home), "HEADRACE_CONFIG": str(config), "HEADRACE_PSEUDONYM_KEY": KEY.decode()}
    return {**kept, **own}


def run(step: tuple[str, ...], variables: dict[str, str], kill_after_s: float | None = None) -> float:
    """Run a step and return its seconds; with `kill_after_s`, kill its whole group then, if it still runs."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *step],
        env=variables,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return time.monotonic() - started
    assert process.returncode == 0, f"{step}: {errors}"
    return time.monotonic() - started


def rounded(row: dict[str, object]) -> dict[str, object]:
    """Forget the last digits, which depend on the order in which threads add."""
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in row.items()}


def state(home: Path) -> dict[str, object]:
    """Return everything that must not depend on an interruption."""
    places = Places(home)
    records = StepRecords(places.records)
    name = records.latest("promote_challenger")
    assert name is not None
    training_set = records.load(name, "build_training_set", TrainingSet)
    report = records.load(name, "evaluate_model", EvaluationReport)
    bundle = places.bundles / name
    manifest = json.loads((bundle / "manifest.json").read_text())
    tables = json.loads((places.tables / "manifest.json").read_text())
    champion = ModelRegistry.from_environment(places.mlflow, {}).champion()
    assert champion is not None
    return {
        "run": name,
        "tables": [window["accepted"] for window in tables["windows"]],
        "events": {day: file["sha256"] for day, file in tables["events"].items()},
        "features": {
            str(path.relative_to(places.features)): sorted(map(rounded, pq.read_table(path).to_pylist()), key=str)
            for path in sorted(places.features.rglob("*.parquet"))
        },
        "training rows": training_set.fingerprint,
        "weights": hashlib.sha256((training_set.folder / "model" / "towers.safetensors").read_bytes()).hexdigest(),
        "bundle": {file: entry["sha256"] for file, entry in manifest["files"].items()},
        "metrics": report.model_dump(mode="json")["metrics"],
        "champion": champion.bundle,
        "bentos": sorted(path.parent.name for path in places.bentoml.glob("bentos/headrace/*/bento.yaml")),
        "live": json.loads(places.current_bundle.read_text())["bundle"],
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_step_that_runs_again_ends_in_the_same_state(tmp_path, tiny_encoder_folder):
    config = tmp_path / "settings.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "source": {"kind": "tables", "mapping": str(write_csv(tmp_path / "shop"))},
                "training": {
                    "encoder": str(tiny_encoder_folder),
                    "encoder_steps": 4,
                    "encoder_batch": 8,
                    "frozen_layers": 0,
                    "tower_steps": 40,
                    "tower_batch": 16,
                    "negatives": 16,
                    "validate_every": 10,
                },
                "compression": {"min_cosine": 0.5, "distillation": {"static_steps": 20}},
                "ranker": {"min_rows": 20, "epochs": 20, "min_steps": 0, "batch": 8, "width": 16},
                "evaluation": {"bootstrap_samples": 100, "latency_requests": 20},
                "promotion": {"floor_cases": ["untouched_encoder"], "max_latency_ms": 10_000},
            }
        )
    )
    undisturbed, disturbed = (environment(tmp_path / name, config) for name in ("undisturbed", "disturbed"))
    for step in STEPS:
        seconds = run(step, undisturbed)
        for share in KILLS_AT:
            run(step, disturbed, kill_after_s=share * seconds)
        run(step, disturbed)
    expected, found = state(tmp_path / "undisturbed"), state(tmp_path / "disturbed")
    for name, value in expected.items():
        assert found[name] == value, name
    assert not list((tmp_path / "disturbed" / "bundles").glob(".*.tmp/manifest.json"))
