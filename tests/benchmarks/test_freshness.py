"""Ratios and tables worked out by hand, and the whole bench on the toy shop."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.benchmarks.freshness import CASES, FROM_ZERO, INCREMENTAL, FreshnessPlan, bench_freshness, seconds_left
from pipelines.benchmarks.freshness_report import (
    WindowResult,
    freshness_records,
    quality_over_time,
    ratio_of_means,
    window_table,
)
from pipelines.config import TrainingConfig
from pipelines.errors import DataError
from pipelines.progress import SilentProgress
from tests.toys.catalogue import write_csv


def window(ndcg: list[float], old: list[float], seconds: float = 0.0) -> WindowResult:
    users, nobody = np.arange(len(ndcg)), np.array([0])
    return WindowResult(
        seconds=seconds,
        steps=1,
        rows=1,
        users=users,
        ndcg=np.array(ndcg),
        recall=np.array(ndcg),
        old_users=np.arange(len(old)),
        old_ndcg=np.array(old),
        scale=np.array(1.0),
        arrived_users=nobody,
        text_among_all=np.array([0.5]),
        popularity_among_all=np.array([0.25]),
        text_among_arrived=np.array([0.75]),
        popularity_among_arrived=np.array([0.0]),
    )


RESULTS = {
    "from zero": [window([0.5, 0.5], [0.4, 0.4], 100), window([0.2, 0.6], [0.4, 0.2], 100)],
    "incremental": [window([0.5, 0.5], [0.4, 0.4], 100), window([0.3, 0.5], [0.4, 0.32], 15)],
}


def test_records_worked_out_by_hand():
    found = {(one.case, one.metric): one.value for one in freshness_records(RESULTS, "toy", windows=1)}
    assert found["from zero", "ndcg@10"] == pytest.approx(0.4)
    assert found["incremental", "ndcg@10 / from zero"] == pytest.approx(1.0)
    assert found["incremental", "training"] == 15
    assert found["incremental", "training / from zero"] == pytest.approx(0.15)
    assert found["incremental", "old slice ndcg@10"] == pytest.approx(0.36)
    assert found["incremental", "old slice after 1"] == pytest.approx(-0.1)
    assert found["from zero", "old slice after 1"] == pytest.approx(-0.25)
    assert found["items that arrived, by text", "recall@100"] == 0.5
    assert found["items that arrived, by popularity", "recall@10 among them"] == 0.0


def test_a_ratio_is_of_the_same_rows_and_its_interval_holds_it():
    users = np.repeat(np.arange(50), 2)
    others = np.random.default_rng(0).random(100)
    value, interval = ratio_of_means(users, 2 * others, others)
    assert (value, *interval) == pytest.approx((2.0, 2.0, 2.0))
    noisy = others + np.random.default_rng(1).normal(0, 0.1, 100)
    value, (low, high) = ratio_of_means(users, noisy, others)
    assert low < value < high
    assert ratio_of_means(users, others, np.zeros(100)) == (0.0, (0.0, 0.0))


def test_the_table_has_a_line_a_window_and_the_picture_a_curve_a_case():
    lines = window_table(RESULTS).splitlines()
    assert len(lines) == 4
    assert "0.4000  0.3600   15.0" in lines[3]
    assert [len(panel.lines) for panel in quality_over_time(RESULTS, "toy").axes] == [2, 2, 2]


def test_the_time_left_is_that_of_the_same_case_or_its_usual_part_of_the_longest():
    remaining = {"from zero": 2, "incremental": 2, "without replay": 2, "frozen": 2}
    took = {"from zero": [100.0], "incremental": [], "without replay": [], "frozen": []}
    assert seconds_left(took, remaining) == pytest.approx(200 + 30 + 30 + 10)
    assert seconds_left({**took, "incremental": [20.0, 40.0]}, remaining) == pytest.approx(200 + 60 + 60 + 20)
    assert seconds_left({case: [] for case in took}, remaining) == 0


PLAN = FreshnessPlan(base_weeks=4, windows=1, query_pairs=20)


@pytest.mark.slow
def test_the_bench_on_the_toy_shop_is_done_once_and_gone_on_with(tmp_path, tiny_encoder_folder, capsys):
    config = TrainingConfig(
        encoder=str(tiny_encoder_folder),
        tower_steps=20,
        validate_every=10,
        tower_batch=8,
        negatives=8,
        behavior_dim=4,
    )
    mapping = str(write_csv(tmp_path / "shop"))

    def run(plan: FreshnessPlan) -> tuple[list[dict], str]:
        bench_freshness(
            mapping,
            work=tmp_path / "work",
            plan=plan,
            config=config,
            json_file=tmp_path / "records.json",
            plot_file=tmp_path / "plot.png",
            progress=SilentProgress(),
        )
        return json.loads((tmp_path / "records.json").read_text()), capsys.readouterr().err

    records, said = run(PLAN)
    assert {record["case"] for record in records} >= set(CASES)
    assert {record["data"] for record in records} == {"mapping"}
    assert said.count("window 1 of 1") == len(CASES)
    assert (tmp_path / "plot.png").stat().st_size > 1_000
    found = {(record["case"], record["metric"]): record["value"] for record in records}
    assert 0 < found[INCREMENTAL, "training"] < found[FROM_ZERO, "training"]

    again, said = run(PLAN)
    assert (again, said) == (records, "")
    _, said = run(replace(PLAN, windows=2))
    assert "window 2 of 2" in said
    assert "window 1 of" not in said
    with pytest.raises(DataError, match="The data holds 9 weeks, 26 are needed"):
        run(replace(PLAN, windows=20))
