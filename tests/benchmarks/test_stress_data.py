"""The stress test counts right, and a short one loses nothing."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from pipelines.benchmarks.stress_data import Tally


def test_events_are_lost_doubled_or_unacknowledged():
    tally = Tally.of("log", 1, {"a", "b", "c", "d"}, Counter({"a": 1, "b": 2, "c": 1, "e": 1, "f": 3}))
    assert tally == Tally("log", kills=1, acknowledged=4, found=3, lost=1, doubled=2, unacknowledged=2)


@pytest.mark.parametrize(
    ("acknowledged", "found", "is_clean"),
    [
        pytest.param({"a"}, {"a": 1}, True, id="found once"),
        pytest.param({"a"}, {"a": 1, "b": 1}, True, id="written but not acknowledged"),
        pytest.param({"a", "b"}, {"a": 1}, False, id="lost"),
        pytest.param({"a"}, {"a": 2}, False, id="doubled"),
        pytest.param(set(), {}, False, id="nothing to lose"),
    ],
)
def test_a_case_is_clean_when_nothing_is_lost_or_doubled(acknowledged, found, is_clean):
    assert Tally.of("log", 1, acknowledged, Counter(found)).is_clean is is_clean


@pytest.mark.slow
def test_a_few_kills_of_writers_and_ingestion_lose_and_double_nothing(tmp_path):
    command = ["bench", "stress-data", "--kills", "4", "--seed", "1", "--work-dir", tmp_path, "--json", tmp_path / "j"]
    subprocess.run([sys.executable, "-m", "pipelines", *map(str, command)], check=True, timeout=300)
    found = {(one["case"], one["metric"]): one["value"] for one in json.loads((tmp_path / "j").read_text())}
    for case in ("event log", "ingestion"):
        assert found[case, "kills"] == 4
        assert (found[case, "lost"], found[case, "doubled"]) == (0, 0)
        assert found[case, "found"] == found[case, "acknowledged"] > 0
