"""A bundle measured as it serves."""

import numpy as np
import pytest

from pipelines.config import ServingConfig
from pipelines.evaluation.bundle_cases import BundleScorer
from pipelines.evaluation.latency import answer_times, time_calls_in_turn
from pipelines.inference.bundle import load_bundle
from pipelines.ranking.answers import recommend, search
from pipelines.ranking.fusion import recommendation_scores
from tests.toys.evaluation_rows import row, rows_of
from tests.toys.toy_bundle import ITEMS, write_toy_bundle

IDS = ITEMS["item_id"].to_pylist()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    write_toy_bundle(folder)
    return load_bundle(folder)


@pytest.fixture
def rows(tmp_path):
    return rows_of(tmp_path, IDS, row(1, "ann", history=["a"]), row(2, "bob", history=[]))


def test_dense_scores_are_cosines_with_the_history(bundle, rows):
    dense = BundleScorer(bundle, IDS).dense_scores(rows)
    # "red apple" against red apple, green apple, green pear, rye bread, oat milk, red bread
    assert dense[0].tolist() == pytest.approx([1, 0.5, 0, 0, 0, 0.5], abs=1e-3)


def test_fused_scores_are_those_of_the_service(bundle, rows):
    fused = BundleScorer(bundle, IDS).fused_scores(rows)
    assert np.array_equal(fused, recommendation_scores(bundle, rows.features, rows.now_s))
    serving = ServingConfig(exclude_purchased_days=0)
    served = recommend(bundle, rows.features[0], k=3, now_s=float(rows.now_s[0]), serving=serving)
    assert served.rows.tolist() == np.argsort(-fused[0, :5], kind="stable")[:3].tolist()  # f is not available
    assert fused[1].tolist() == pytest.approx(bundle.popularity_score.tolist())


def test_search_scores_are_those_of_the_service(bundle):
    scorer = BundleScorer(bundle, IDS)
    scores = scorer.search_scores(["green pear"])
    served = search(bundle, "green pear", k=2, now_s=0.0, serving=ServingConfig())
    assert served.rows.tolist() == np.argsort(-scores[0], kind="stable")[:2].tolist() == [2, 1]
    assert served.scores == pytest.approx(scores[0, [2, 1]], abs=1e-5)
    assert scorer.lexical_search_scores(["nothing known"]).tolist() == [[0, 0, 0, 0, 0, 0]]


def test_a_bundle_is_measured_on_the_catalogue_of_another(bundle, rows):
    own, moved = (BundleScorer(bundle, ids).dense_scores(rows)[0] for ids in (IDS, ["new", "b", "a"]))
    assert moved.tolist() == [-2, own[1], own[0]]


def test_both_cases_share_the_work_of_a_block_but_not_its_memory(bundle, rows):
    scorer = BundleScorer(bundle, IDS)
    first = scorer.dense_scores(rows)
    first[:] = 7
    assert scorer.dense_scores(rows).max() <= 1.001
    assert scorer.dense_scores(rows.part(1, 2)).tolist() == [[0, 0, 0, 0, 0, 0]]  # another block: bob alone


def test_latency_is_told_for_each_kind_of_request_of_each_bundle(bundle, rows):
    found = answer_times({"one": bundle, "two": bundle}, rows, ["red apple"] * 30, ServingConfig(), requests=20)
    assert {name: {kind: len(times) for kind, times in one.by_kind.items()} for name, one in found.items()} == {
        "one": {"recommend": 20, "search": 20},
        "two": {"recommend": 20, "search": 20},
    }
    told = found["two"].percentiles()
    assert set(told) == {f"{kind}_p{percent}" for kind in ("recommend", "search") for percent in (50, 95, 99)}
    assert 0 < told["search_p50"] <= told["search_p95"] <= told["search_p99"] < 1_000
    assert answer_times({"one": bundle}, rows, [], ServingConfig(), requests=20)["one"].by_kind.keys() == {"recommend"}


def test_the_sides_of_a_timing_take_turns():
    asked = []
    sides = [[lambda name=name, place=place: asked.append((place, name)) for place in range(3)] for name in "ab"]
    assert time_calls_in_turn(sides, warm_up=0).shape == (2, 3)
    assert asked == [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a"), (2, "b")]
