"""How the search of a bundle is scored, learned on judged queries of the toy bundle."""

import numpy as np
import pytest

from pipelines.config import SearchRankerConfig
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import SearchFusion
from pipelines.progress import SilentProgress
from pipelines.training.judged_queries import JudgedQueries
from pipelines.training.search_ranking import learn_search_ranking
from tests.toys.toy_bundle import ITEMS, write_toy_bundle


@pytest.fixture
def bundle(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    return load_bundle(tmp_path / "b1")


METRICS = (
    "search_ranker_validation_ndcg@10",
    "search_fusion_validation_ndcg@10",
    "search_ranker_validation_gain_standard_error",
)


def judged(n: int, ahead: int | None) -> JudgedQueries:
    """Return queries that name an item's title, and of which the item so many rows ahead, or any, is the answer."""
    answers = np.random.default_rng(8).integers(0, 6, n) if ahead is None else (np.arange(n) + ahead) % 6
    titles = ITEMS["title"].to_pylist()
    return JudgedQueries(
        [f"{titles[number % 6]} {number}" for number in range(n)],
        [np.array([answer]) for answer in answers],
        [np.array([1.0])] * n,
    )


def learn(bundle, tmp_path, n: int, ahead: int | None = 0):
    config = SearchRankerConfig(min_queries=20, epochs=2)
    return learn_search_ranking(
        bundle,
        judged(n, ahead),
        config=config,
        seed=0,
        target=tmp_path / "search_ranker.onnx",
        progress=SilentProgress(),
    )


@pytest.mark.parametrize("n", [0, 19], ids=["no judgements", "too few"])
def test_with_too_few_judged_queries_everything_stays(bundle, tmp_path, n):
    learned = learn(bundle, tmp_path, n)
    assert learned.fusion == SearchFusion()
    assert (learned.ranker, learned.file) == (None, None)
    assert learned.metrics == {"search_ranker_queries": 0.0}


def test_a_ranker_that_is_better_by_chance_alone_is_not_kept(bundle, tmp_path):
    learned = learn(bundle, tmp_path, 120, ahead=None)
    own, fused, error = (learned.metrics[name] for name in METRICS)
    assert 0 < own - fused < error
    assert (learned.ranker, learned.file) == (None, None)


@pytest.mark.slow
def test_a_ranker_that_knows_better_than_the_fusion_is_kept(bundle, tmp_path):
    learned = learn(bundle, tmp_path, 120, ahead=1)
    assert learned.metrics["search_ranker_validation_ndcg@10"] > learned.metrics["search_fusion_validation_ndcg@10"]
    write_toy_bundle(
        tmp_path / "b2",
        search_ranker=learned.file,
        preprocessing=bundle.preprocessing.model_copy(update={"search_ranker": learned.ranker}),
    )
    assert load_bundle(tmp_path / "b2").search_ranker is not None


def test_where_the_fusion_is_perfect_no_ranker_is_kept(bundle, tmp_path):
    learned = learn(bundle, tmp_path, 120)  # each title is its own answer
    assert learned.metrics["search_fusion_validation_ndcg@10"] == 1.0
    assert (learned.ranker, learned.file) == (None, None)
    assert learned.fusion.dense + learned.fusion.lexical == pytest.approx(1.0)
