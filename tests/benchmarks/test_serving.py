"""The serving benchmark's own parts; the whole of it needs a deployed bundle."""

import json

import numpy as np
import pytest

from pipelines.benchmarks.http_load import Counting, Tally, closed_loop, http_request
from pipelines.benchmarks.serving import bench_serving, without_query_tower
from pipelines.benchmarks.serving_bars import Bar, missed, table_with_bars
from pipelines.benchmarks.serving_cases import Durations, Figures, queueing_ratio
from pipelines.benchmarks.serving_traffic import Traffic
from pipelines.benchmarks.trivial_server import trivial_server
from pipelines.errors import ConfigError, StoreError
from pipelines.inference.bundle import load_bundle
from tests.toys.toy_bundle import write_toy_bundle

PERSONAL = {"degraded": [], "items": [{"item_id": "a"}], "personalized": True}


def tally(latencies_ms: list[float], *, seconds: float = 1.0, failed: int = 0) -> Tally:
    statuses = np.array([200] * len(latencies_ms) + [503] * failed, np.int16)
    return Tally(seconds, np.array(latencies_ms), statuses, np.zeros(len(statuses)), [])


def test_a_value_is_the_median_of_its_rounds_and_the_interval_their_range():
    figures = Figures("case", p50_ms=[4.0, 2.0, 10.0], cpu_ms=[2.0, 1.0, 5.0])
    found = {record.metric: (record.value, record.low, record.high) for record in figures.records("toy")}
    assert found == {"p50_ms": (4.0, 2.0, 10.0), "cpu_ms": (2.0, 1.0, 5.0)}


def test_without_processor_times_only_latencies_are_told():
    assert [record.metric for record in Figures("case", p50_ms=[1.0]).records("toy")] == ["p50_ms"]


def test_under_load_the_rate_counts_answers_and_the_99th_percentile_is_relative_to_one_client():
    figures = Figures(
        "case", p50_ms=[2.0], capacity=tally([1.0] * 90, seconds=0.5, failed=10), half=tally([1.0] * 98 + [30.0] * 2)
    )
    found = {record.metric: record.value for record in figures.records("toy")}
    assert found["rps_per_core"] == 180.0
    assert found["p99_ms"] == pytest.approx(30.0)
    assert found["p99_over_p50"] == pytest.approx(15.0)
    assert found["failures"] == 0


def test_what_waiting_in_turn_makes_of_the_slowest_is_told_beside_them():
    figures = Figures("case", p50_ms=[2.0], half=tally([1.0, 6.0]), queueing=4.5)
    found = {record.metric: record.value for record in figures.records("toy")}
    assert found["p99_over_p50_of_queueing"] == 4.5


def test_no_answer_comes_before_as_much_was_computed_as_the_service_needs():
    found, requests = Counting(), iter([http_request("recommend", {})] * 20)
    with trivial_server(None, busy_ms=3.0) as port:
        closed_loop(port, lambda _: next(requests, None), found, clients=4)
    latencies = found.tally(1.0).latencies_ms
    assert len(latencies) == 20
    assert latencies.min() >= 3.0
    assert latencies.sum() >= 20 * 3.0 * 2  # four clients wait for one another


def test_what_waiting_in_turn_makes_of_the_slowest_is_measured():
    short = Durations(round_s=0.2, half_warm_s=0.1, half_s=0.4, half_answers=0)
    ratio = queueing_ratio(1.0, None, short, seed=1)
    assert ratio > 0  # how much it is depends on what else the machine does


def test_a_slow_case_is_asked_for_longer():
    durations = Durations(half_warm_s=1.0, half_s=5.0, half_answers=3_000)
    assert durations.open_s(1_000.0) == 6.0
    assert durations.open_s(300.0) == 11.0
    assert durations.open_s(10.0) == 21.0


@pytest.mark.parametrize(
    ("bar", "value", "is_met"),
    [
        pytest.param(Bar("c", "m", 2.0), 2.0, True, id="at most, just"),
        pytest.param(Bar("c", "m", 2.0), 2.1, False, id="at most, missed"),
        pytest.param(Bar("c", "m", 2.0, at_least=True), 2.0, True, id="at least, just"),
        pytest.param(Bar("c", "m", 2.0, at_least=True), 1.9, False, id="at least, missed"),
        pytest.param(Bar("c", "m", 2.0), float("nan"), False, id="no number"),
    ],
)
def test_a_bar(bar, value, is_met):
    assert bar.is_met(value) is is_met


def test_the_table_shows_each_figure_beside_its_bar():
    records = list(Figures("search", p50_ms=[4.0, 2.0, 10.0], cpu_ms=[1.0]).records("toy"))
    bars = [Bar("search", "p50_ms", 3.0), Bar("search", "cpu_ms", 1.5)]
    lines = [line.split() for line in table_with_bars(records, bars).splitlines()]
    assert lines[1] == ["search", "cpu_ms", "1.00", "1.00", "–", "1.00", "≤", "1.5", "met"]
    assert lines[2] == ["p50_ms", "4.00", "2.00", "–", "10.00", "≤", "3", "MISSED"]
    assert missed(records, bars) == ["search: p50_ms is 4.00, the bar is ≤ 3"]


@pytest.fixture
def traffic(tmp_path):
    write_toy_bundle(tmp_path / "b")
    made = Traffic(load_bundle(tmp_path / "b"), port=0, users=10)
    made._visited, made._fresh = made.users[:8], made.users[8:]
    return made


def test_new_queries_never_repeat(traffic):
    queries = [next(traffic.new_queries) for _ in range(300)]
    assert len({*queries, *traffic.cached}) == 500


def test_a_user_waits_for_a_first_visit_only_once(traffic):
    assert {traffic.user() for _ in range(300)} == set(traffic.users)
    assert (traffic.visits, traffic.first_visits) == (300, 2)


def test_the_user_of_an_event_is_the_next_who_asks(traffic):
    pairs = [
        [json.loads(traffic.event_then_recommend(index).split(b"\r\n\r\n")[1]) for index in (0, 1)] for _ in range(9)
    ]
    assert all(event["events"][0]["user_id"] == asked["user_id"] for event, asked in pairs)


@pytest.mark.parametrize("strangers", [0, 2, 3])
def test_a_known_user_whom_a_busy_service_does_not_know_is_asked_for_again(traffic, monkeypatch, strangers):
    answers = iter([*[{"degraded": ["stale"], "items": [], "personalized": False}] * strangers, PERSONAL, PERSONAL])
    monkeypatch.setattr("pipelines.benchmarks.serving_traffic.ask", lambda *_: next(answers))
    monkeypatch.setattr("pipelines.benchmarks.serving_traffic._TRY_AGAIN_S", 0.0)
    if strangers < 3:
        traffic._require_known("bench-1")
        assert next(answers) is PERSONAL
    else:
        with pytest.raises(StoreError, match="answered as a stranger"):
            traffic._require_known("bench-1")


def test_a_history_is_of_baskets_before_now(traffic):
    events = list(traffic._history("bench-1", now=1_800_000_000.0))
    assert len(events) == 50
    assert len({event["event_timestamp"] for event in events}) == 10
    assert max(event["event_timestamp"] for event in events) == "2027-01-12T08:00:00Z"


def test_a_bundle_without_its_query_tower_still_opens(tmp_path):
    write_toy_bundle(tmp_path / "b")
    (tmp_path / "b" / "query_tower").mkdir()
    without_query_tower(tmp_path / "b")
    assert load_bundle(tmp_path / "b").n_items == 6


def test_without_a_deployed_bundle_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="run `headrace loop` first"):
        bench_serving()
