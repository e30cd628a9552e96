"""The serving benchmark's own parts; the whole of it needs a deployed bundle."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pipelines.benchmarks.serving import Timing, _new_queries, _records, bench_serving, descendants
from pipelines.errors import ConfigError
from pipelines.inference.bundle import load_bundle
from tests.toys.toy_bundle import write_toy_bundle


def test_a_value_is_the_median_of_its_rounds_and_the_interval_their_range():
    rounds = [Timing(np.full(4, ms), cpu_ms=ms / 2) for ms in (4.0, 2.0, 10.0)]
    found = {record.metric: (record.value, record.low, record.high) for record in _records("case", "toy", rounds)}
    assert found["p50_ms"] == (4.0, 2.0, 10.0)
    assert found["cpu_ms"] == (2.0, 1.0, 5.0)
    assert found["rps_per_core"] == (500.0, 200.0, 1_000.0)


def test_without_processor_times_only_latencies_are_told():
    rounds = [Timing(np.ones(4), cpu_ms=None)]
    assert [record.metric for record in _records("case", "toy", rounds)] == ["p50_ms", "p99_ms"]
    assert list(_records("case", "toy", [])) == []


def test_new_queries_never_repeat(tmp_path):
    write_toy_bundle(tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    queries = [query for round_ in range(3) for query in _new_queries(bundle, 20, round_)]
    assert len(set(queries)) == 60


def test_a_process_counts_with_those_below_it():

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(descendants(os.getpid()))
    finally:
        child.communicate(b"\n")


def test_without_a_deployed_bundle_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="run `headrace loop` first"):
        bench_serving()
