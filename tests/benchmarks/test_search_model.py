"""The model of `bench search`, on a folder whose queries are titles with a number."""

import numpy as np
import pytest

from pipelines.benchmarks.folder import read_search_folder
from pipelines.benchmarks.protocols import search_split
from pipelines.benchmarks.search import MODEL_CASES
from pipelines.benchmarks.search_model import CASES, fit_searcher, recipe
from pipelines.config import HeadraceConfig
from pipelines.progress import SilentProgress
from pipelines.training.judged_queries import JudgedQueries
from tests.toys.bench_folders import TITLES, write_items, write_judgements


@pytest.fixture
def task(tmp_path):
    judgements = []
    for number in range(60):
        item = "abcde"[number % 5]
        judgements += [(f"{TITLES[number % 5]} {number}", item, 3.0), (f"{TITLES[number % 5]} {number}", "e", 1.0)]
    rows = [row for row in judgements if not (row[1] == "e" and row[2] == 1.0 and (row[0], "e", 3.0) in judgements)]
    return search_split(read_search_folder(write_judgements(write_items(tmp_path / "shop"), rows)))


def small(tiny_encoder_folder, min_queries: int) -> HeadraceConfig:
    config = recipe(3, 36, quick=True)
    training = {"encoder": str(tiny_encoder_folder), "encoder_steps": 2, "encoder_batch": 4, "frozen_layers": 1}
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "search_ranker": config.search_ranker.model_copy(update={"min_queries": min_queries}),
        }
    )


class Stages:
    """Remembers what was worked on."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def update(self, stage, done, total=None, note=""):
        self.seen.add(stage)


def fit(task, tmp_path, config, progress=None):
    return fit_searcher(
        task, seed=3, work=tmp_path / "work", quick=True, progress=progress or SilentProgress(), config=config
    )


@pytest.mark.slow
def test_all_cases_rank_the_corpus_and_finished_parts_are_read_again(task, tmp_path, tiny_encoder_folder):
    config = small(tiny_encoder_folder, 2)
    first, again = fit(task, tmp_path, config), Stages()
    second = fit(task, tmp_path, config, again)
    assert sorted(first) == sorted(CASES) == sorted(MODEL_CASES)
    assert again.seen == set()
    queries = ["red tea", "no such thing"]
    for case, score in first.items():
        scores = score(queries)
        assert scores.shape == (2, task.n_items), case
        assert np.isfinite(scores).all(), case
        np.testing.assert_array_equal(scores, second[case](queries))


@pytest.mark.slow
def test_with_too_few_queries_the_fusion_is_served(task, tmp_path, tiny_encoder_folder):
    cases = fit(task, tmp_path, small(tiny_encoder_folder, 1_000))
    queries = ["red tea"]
    np.testing.assert_array_equal(cases["headrace"](queries), cases["without ranker"](queries))
    np.testing.assert_array_equal(cases["without lexical"](queries), cases["headrace_dense"](queries))


def test_the_encoder_and_the_ranker_learn_from_different_queries():
    queries = [f"query {number}" for number in range(100)]
    judged = JudgedQueries(queries, [np.array([0])] * 100, [np.array([1.0])] * 100)
    share = recipe(3, 100, quick=False).training.judged_holdout_share
    tuned, held_out = judged.divided(share)
    assert len(tuned) + len(held_out) == 100
    assert not {*tuned.queries} & {*held_out.queries}


@pytest.mark.parametrize(
    ("n_queries", "steps"),
    [
        pytest.param(7_026, 400, id="Home Depot"),
        pytest.param(1_000, 59, id="no query is seen more than five times"),
        pytest.param(1, 1, id="one query"),
    ],
)
def test_the_encoder_takes_as_many_steps_as_the_queries_bear(n_queries, steps):
    assert recipe(3, n_queries, quick=False).training.encoder_steps == steps
