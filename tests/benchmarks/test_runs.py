"""The course of a bench: nothing is measured twice, a killed one goes on."""

import numpy as np
import pytest

from pipelines.benchmarks.case_store import CaseStore
from pipelines.benchmarks.records import BenchmarkRecord
from pipelines.benchmarks.runs import BenchOptions, draw, run_cases
from pipelines.benchmarks.time_left import TimeLeft
from pipelines.errors import ConfigError
from pipelines.progress import SilentProgress


class Bench:
    """Two baselines and a model with two cases; counts what is really done."""

    def __init__(self, folder):
        self.folder = folder
        self.done = []
        self.die_at = None

    def measure(self, name):
        if name == self.die_at:
            raise InterruptedError
        self.done.append(name)
        return {"ranks": np.asarray([len(name)])}

    def fit(self, seed):
        self.done.append(f"fit {seed}")
        return {"headrace": f"headrace {seed}", "without words": f"without words {seed}"}

    def run(self, **options):
        self.done.clear()
        chosen = BenchOptions(work=self.folder, cache=self.folder, **{"seeds": 2, **options})
        store = CaseStore(self.folder / "split")
        return run_cases(
            ["popularity", "tfidf"], ["headrace", "without words"], self.measure, self.fit, self.measure, store, chosen,
            TimeLeft(SilentProgress()),
        ).results  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


EVERYTHING = [
    "popularity",
    "tfidf",
    *("fit 0", "headrace 0", "without words 0"),
    *("fit 1", "headrace 1", "without words 1"),
]


def test_baselines_run_once_and_the_model_once_a_seed(bench):
    results = bench.run()
    assert bench.done == EVERYTHING
    assert {case: len(found) for case, found in results.items()} == {
        "popularity": 1,
        "tfidf": 1,
        "headrace": 2,
        "without words": 2,
    }


def test_a_second_run_measures_nothing(bench):
    first = bench.run()
    assert bench.run().keys() == first.keys()
    assert bench.done == []


def test_a_killed_bench_goes_on_where_it_was(bench):
    bench.die_at = "without words 1"
    with pytest.raises(InterruptedError):
        bench.run()
    bench.die_at = None
    bench.run()
    assert bench.done == ["fit 1", "without words 1"]  # the model resumes in its own folder


def test_one_more_seed_keeps_the_others(bench):
    bench.run()
    bench.run(seeds=3)
    assert bench.done == ["fit 2", "headrace 2", "without words 2"]


def test_only_the_wanted_cases_run(bench):
    assert list(bench.run(cases=("tfidf",))) == ["tfidf"]
    assert bench.done == ["tfidf"]
    assert list(bench.run(cases=("headrace",), seeds=1)) == ["headrace"]


def test_fresh_forgets_what_is_asked_for(bench):
    bench.run()
    bench.run(fresh=True, cases=("tfidf",))
    assert bench.done == ["tfidf"]
    bench.run(fresh=True)
    assert bench.done == EVERYTHING


@pytest.mark.parametrize("name", ["tf-idf", "headrace_foo", "without luck", "headrace: gain over tfidf"])
def test_a_misspelt_case_is_named_before_anything_is_measured(bench, name):
    with pytest.raises(
        ConfigError, match=f"--cases {name}: there is no such case. Known: popularity, tfidf, headrace, "
    ):
        bench.run(cases=("tfidf", name))
    assert bench.done == []


def test_a_part_is_only_taken_away_where_that_is_asked_for(bench):
    def run(model_cases):
        options = BenchOptions(work=bench.folder, cache=bench.folder, cases=("without words",))
        store = CaseStore(bench.folder / "split")
        run_cases(["tfidf"], model_cases, bench.measure, bench.fit, bench.measure, store, options,
                  TimeLeft(SilentProgress()))  # fmt: skip

    with pytest.raises(ConfigError, match=r"Known: tfidf, headrace\. A part is only taken away with --ablation\.$"):
        run(["headrace"])
    with pytest.raises(ConfigError, match=r"Known: tfidf, headrace, without vectors\.$"):
        run(["headrace", "without vectors"])


def test_a_case_of_the_model_that_is_stored_may_be_asked_for(bench):
    bench.fit = lambda seed: {"headrace": "headrace", "without an old part": "old"}
    bench.run(seeds=1)
    assert list(bench.run(seeds=1, cases=("without an old part",))) == ["without an old part"]
    with pytest.raises(ConfigError, match="there is no such case"):
        bench.run(seeds=1, cases=("without an old part",), fresh=True)


def test_a_part_that_the_model_came_out_without_is_named(bench):
    bench.fit = lambda seed: {"headrace": "headrace"}
    with pytest.raises(ConfigError, match=r"--cases without words: the model came out without \(it has: headrace\)"):
        bench.run(cases=("without words",))


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_a_picture_is_of_the_kind_that_its_name_says(tmp_path, name, begins):
    record = BenchmarkRecord(
        bench="recommend", data="shop", case="popularity", metric="ndcg@10", value=0.5, unit="", seeds=1
    )
    draw([record], ["ndcg@10"], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
