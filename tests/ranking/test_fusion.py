"""Fusion weights are chosen on validation rows."""

import numpy as np
import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import Fusion, Preprocessing, RecommendFusion
from pipelines.ranking.fusion import fit_fusion_weights, recommendation_parts, weighted_mean
from pipelines.ranking.ordering import distinct_rows, first_allowed, top_rows
from tests.toys.toy_bundle import User, bought, write_toy_bundle

NOW_S = 1_000.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return load_bundle(folder)


def test_weighted_mean():
    parts = {"dense": np.array([1.0, 0.0], np.float32), "popularity": np.array([0.5, 1.0], np.float32)}
    assert weighted_mean(parts, {"dense": 3.0, "popularity": 1.0}).tolist() == [0.875, 0.25]
    assert weighted_mean(parts, {"dense": 0.0, "popularity": 0.0}).tolist() == [0.0, 0.0]


def test_parts_lie_between_0_and_1_and_strangers_are_marked(bundle):
    parts = recommendation_parts(bundle, [bought("a"), User()], [NOW_S, NOW_S])
    assert parts.known.tolist() == [True, False]
    assert parts.vectors[0].tolist() == bundle.user_embedding(bought("a"), NOW_S)[0].tolist()
    assert not parts.vectors[1].any()
    assert parts.scores["item_to_item"][0].tolist() == pytest.approx([0, 1, 0, 0.5, 0, 0])
    assert parts.scores["popularity"].shape == (2, 6)
    for scores in parts.scores.values():
        assert scores.min() >= 0
        assert scores.max() <= 1 + 1e-3


@pytest.mark.parametrize(
    ("target", "generator"),
    [
        pytest.param("e", "item_to_item", id="what is bought after c is its neighbour e"),
        pytest.param("b", "dense", id="what is bought after c is like c"),
        pytest.param("d", "popularity", id="what is bought after c is popular"),
    ],
)
def test_the_generator_that_predicts_gets_the_weight(tmp_path, target, generator):
    only_dense = Fusion(recommend=RecommendFusion(dense=1, item_to_item=0, popularity=0))
    write_toy_bundle(tmp_path / "b", preprocessing=Preprocessing(fusion=only_dense))
    bundle = load_bundle(tmp_path / "b")
    fusion, measured = fit_fusion_weights(bundle, [bought("c")], [NOW_S], [[target]], [["c"]], k=1)
    weights = fusion.recommend.model_dump()
    assert max(weights, key=weights.get) == generator
    assert sum(weights.values()) == pytest.approx(1)
    assert measured["fusion_validation_recall@1"] == 1.0
    assert measured[f"{generator}_validation_recall@1"] == 1.0


def test_items_seen_before_are_not_ranked(bundle):
    _, measured = fit_fusion_weights(bundle, [bought("c")], [NOW_S], [["d"]], [["c", "e", "b"]], k=1)
    assert measured["popularity_validation_recall@1"] == 1.0
    _, measured = fit_fusion_weights(bundle, [bought("c")], [NOW_S], [["d", "a"]], [["c", "d"]], k=1)
    assert measured["popularity_validation_recall@1"] == 0.0


def test_without_rows_the_weights_stay(bundle):
    fusion, measured = fit_fusion_weights(bundle, [bought("c"), User()], [NOW_S] * 2, [[], ["a"]], [[], []])
    assert fusion == bundle.preprocessing.fusion
    assert measured == {}


@pytest.mark.parametrize(
    ("k", "allowed", "expected"),
    [
        pytest.param(2, None, [1, 2], id="ties in row order"),
        pytest.param(3, [True, True, False, True], [1, 3, 0], id="not allowed ones never come"),
        pytest.param(9, None, [1, 2, 3, 0], id="fewer come back if there are fewer"),
        pytest.param(0, None, [], id="none"),
    ],
)
def test_top_rows(k, allowed, expected):
    scores = np.array([0.1, 0.5, 0.5, 0.5 if allowed is None else 0.4], np.float32)
    mask = None if allowed is None else np.array(allowed)
    assert top_rows(scores, k, mask).tolist() == expected


@pytest.mark.parametrize("share", [pytest.param(1.0, id="all allowed"), pytest.param(0.002, id="few allowed")])
def test_the_best_of_many_are_those_of_a_full_sort(share):
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 500, 20_001).astype(np.float32)  # with many ties
    allowed = rng.random(20_001) < share
    wanted = np.flatnonzero(allowed)[np.argsort(-scores[allowed], kind="stable")[:100]]
    assert top_rows(scores, 100, allowed).tolist() == wanted.tolist()


@pytest.mark.parametrize("n", [300, 20_001], ids=["few", "many"])
@pytest.mark.parametrize("share", [None, 0.5], ids=["all allowed", "half allowed"])
@pytest.mark.parametrize("above", [-1.0, 250.0, 497.5, 499.0], ids=["all", "half", "few", "none"])
def test_the_best_above_a_score(n, share, above):
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 500, n).astype(np.float32)
    allowed = None if share is None else rng.random(n) < share
    every = np.argsort(-scores, kind="stable")
    kept = (scores > above) if allowed is None else (scores > above) & allowed
    assert top_rows(scores, 100, allowed, above=above).tolist() == every[kept[every]][:100].tolist()


def test_the_first_allowed_rows_keep_their_order():
    allowed = np.zeros(30, bool)
    allowed[[3, 20, 29]] = True
    rows = np.arange(30)[::-1]
    assert first_allowed(rows, 2, allowed).tolist() == [29, 20]
    assert first_allowed(rows, 3, allowed).tolist() == [29, 20, 3]
    assert first_allowed(rows, 9, allowed).tolist() == [29, 20, 3]


def test_of_many_equals_the_first_rows_are_taken():
    scores = np.full(20_000, 0.5, np.float32)
    scores[[7, 19_999]] = 0.6, 0.7
    assert top_rows(scores, 5).tolist() == [19_999, 7, 0, 1, 2]
    assert top_rows(scores[:100], 3).tolist() == [7, 0, 1]


def test_distinct_rows_rise():
    assert distinct_rows(np.array([5, 1]), np.array([3, 5]), np.empty(0, int)).tolist() == [1, 3, 5]
    assert distinct_rows(np.empty(0, int)).tolist() == []
