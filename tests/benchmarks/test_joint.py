"""`bench joint`: records worked out by hand, and a whole run on a toy that goes on where it was."""

import json
import math

import numpy as np
import pytest

from pipelines.benchmarks.joint import JointCase, bench_joint, joint_cases, joint_records, recipe, verdict
from pipelines.benchmarks.joint_model import Part
from pipelines.benchmarks.joint_tasks import joint_tasks
from pipelines.benchmarks.runs import BenchOptions
from pipelines.errors import ConfigError
from pipelines.progress import SilentProgress
from pipelines.schemas import Metric
from tests.toys.bench_folders import write_interactions, write_items

EVENTS = [(user, item, place) for user in ("ann", "bob") for place, item in enumerate("abcd")]
BOTH, USERS, QUERIES = Part("joint", 4), Part("recommend", 2), Part("search", 2)
CASES = {"joint": JointCase(BOTH, BOTH), "separate": JointCase(USERS, QUERIES)}


@pytest.fixture
def shop(tmp_path):
    write_items(tmp_path / "shop")
    return write_interactions(tmp_path / "shop", EVENTS)


def results(tasks, **ranks):
    """Give every target and every judged item of a part the same rank, one for each seed."""
    n_users, n_judged = len(tasks.recommend.test), sum(map(len, tasks.search.test.items))
    return {
        name: [
            {
                "recommend": np.full(n_users, of_user),
                "search": np.full(n_judged, of_query),
                "parameters": np.asarray(parameters),
            }
            for of_user, of_query in per_seed
        ]
        for name, (parameters, per_seed) in ranks.items()
    }


@pytest.fixture
def records(shop):
    tasks = joint_tasks(shop, drawn=50, quick=False)
    found = results(
        tasks,
        **{
            "untrained": (0, [(11, 11)]),
            BOTH.name: (100, [(1, 2), (3, 2)]),
            USERS.name: (70, [(3, 11), (3, 11)]),
            QUERIES.name: (28, [(11, 2), (11, 2)]),
        },
    )
    return {(record.case, record.metric): record for record in joint_records(tasks, CASES, found, "shop", samples=100)}


def test_quality_and_gains_worked_out_by_hand(records):
    third = 1 / math.log2(4)
    assert records["joint", "recommend.ndcg@10"].value == pytest.approx((1 + third) / 2)
    assert records["joint", "recommend.recall@10"].value == 1
    assert records["untrained", "recommend.recall@10"].value == 0
    gain = records["joint: gain over separate", "recommend.ndcg@10"]
    assert gain.value == pytest.approx((1 - third) / 2)
    assert gain.seeds == 2
    over_seeds = records["joint: gain over separate", "recommend.ndcg@10 over seeds"]
    assert (over_seeds.low, over_seeds.high) == pytest.approx((0.0, 1 - third))


def test_each_task_is_answered_by_its_own_tower(records):
    assert records["separate", "search.recall@10"].value == records["joint", "search.recall@10"].value > 0
    assert records["joint: gain over separate", "search.ndcg@10"].value == 0


def test_parameters_of_both_towers_count_and_a_shared_one_once(records):
    assert records["joint", "parameters"].value == 100
    assert records["separate", "parameters"].value == 98


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        pytest.param(0.001, 0.003, "better", id="above zero"),
        pytest.param(-0.003, -0.001, "worse", id="below zero"),
        pytest.param(-0.001, 0.003, "no clear difference", id="around zero"),
        pytest.param(None, None, "no clear difference", id="no interval"),
    ],
)
def test_what_an_interval_says(low, high, said):
    assert verdict(Metric(value=0.002, low=low, high=high)) == said


def test_two_towers_together_are_no_larger_than_one(shop):
    cases = joint_cases(joint_tasks(shop, drawn=50, quick=False), width=64, dim=16)
    assert list(cases) == ["joint", "alternating", "separate", "separate_uneven", "separate_full_width"]
    width = cases["joint"].search.width
    for name in ("separate", "separate_uneven"):
        assert cases[name].recommend.width + cases[name].search.width < width
    assert cases["separate_full_width"].search == Part("search", width)


def test_steps_are_those_of_the_loop_unless_said():
    assert recipe(None, encoder=None, quick=False).training.tower_steps == 1_500
    assert recipe(600, encoder=None, quick=False).training.tower_steps == 600
    assert recipe(600, encoder=None, quick=True).training.tower_steps == 20


class Stages:
    """Progress that remembers the stages."""

    def __init__(self):
        self.seen = set()

    def update(self, stage, done, total=None, note=""):
        self.seen.add(stage)


def trained(bench, shop, **options):
    """Return the trainings of a run, such as `seed 2, joint`."""
    stages = Stages()
    bench(shop, stages, **options)
    return {stage.split("] ")[1].split(", behavior")[0] for stage in stages.seen if stage.endswith("tower steps")}


@pytest.fixture
def bench(tmp_path, tiny_encoder_folder):
    def run(folder, progress=None, **options):
        chosen = BenchOptions(
            work=tmp_path / "work", cache=tmp_path / "cache", encoder=str(tiny_encoder_folder),
            **{"samples": 100, "seeds": 1, **options},
        )  # fmt: skip
        return bench_joint(folder, chosen, progress or SilentProgress(), steps=2)

    return run


@pytest.mark.slow
def test_a_case_that_there_is_not_is_refused(bench, shop):
    with pytest.raises(ConfigError, match=r"--cases apart: there is no such case\. Known: joint; alternating"):
        bench(shop, cases=("apart",))


@pytest.mark.slow
def test_a_run_prints_writes_and_goes_on_where_it_was(bench, shop, tmp_path, capsys):
    file = tmp_path / "out" / "joint.json"
    bench(shop, cases=("joint", "separate"), json_file=file)
    said = capsys.readouterr().out
    assert "MADE FROM THE CATALOGUE" in said
    assert "Parameters that learn" in said
    assert "joint against separate by NDCG@10: recommend " in said
    first = json.loads(file.read_text())
    assert {record["bench"] for record in first} == {"joint"}
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    assert trained(bench, shop, cases=("joint", "separate"), json_file=file) == set()
    assert json.loads(file.read_text()) == first
    assert trained(bench, shop, cases=("joint", "separate"), seeds=2) == {
        f"seed 2, {objective}" for objective in ("joint", "recommend", "search")
    }
    assert trained(bench, shop, cases=("alternating",)) == {"seed 1, alternating"}
    assert "seed 1, joint" in trained(bench, shop, cases=("joint",), fresh=True)
