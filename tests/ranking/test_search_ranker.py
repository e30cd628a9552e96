"""Searches of the toy bundle with a ranker that reads one feature."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.evaluation.bundle_cases import BundleScorer
from pipelines.inference.bundle import load_bundle
from pipelines.inference.manifest import OtherVersionError
from pipelines.inference.preprocessing import Preprocessing
from pipelines.inference.ranker_features import SEARCH_FEATURES
from pipelines.ranking.answers import search
from pipelines.ranking.filtering import Filters
from pipelines.ranking.search_ranker import behind, ranked_search, search_ranker_settings
from tests.toys.toy_bundle import bought, one_hot, write_toy_bundle

SERVING = ServingConfig()


def write_ranker(path, feature: str, weight: float):
    """Write a ranker whose logit is `weight` times one feature."""
    weights = np.zeros((len(SEARCH_FEATURES), 1), np.float32)
    weights[SEARCH_FEATURES.index(feature)] = weight
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["logits"])],
        "toy",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["c", len(SEARCH_FEATURES)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["c", 1])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def open_with_ranker(tmp_path, feature: str = "words_found", weight: float = 1.0, **settings):
    write_toy_bundle(
        tmp_path / "b1",
        search_ranker=write_ranker(tmp_path / "ranker.onnx", feature, weight),
        preprocessing=Preprocessing(search_ranker=search_ranker_settings(100).model_copy(update=settings)),
    )
    return load_bundle(tmp_path / "b1")


def item_ids(bundle, ranking) -> list[str]:
    return [bundle.item_ids[row] for row in ranking.rows]


def test_the_ranker_orders_a_search(tmp_path):
    bundle = open_with_ranker(tmp_path, "cosine", -1.0)  # the worst by meaning first
    ranking = search(bundle, "green apple", k=5, now_s=0, serving=SERVING)
    assert item_ids(bundle, ranking) == ["d", "e", "a", "c", "b"]
    assert ranking.scores.tolist() == pytest.approx([1, 1, 0.5, 0.5, 0], abs=1e-3)
    assert ranking.parts["dense"].tolist() == pytest.approx([0, 0, 0.5, 0.5, 1], abs=0.02)
    assert not ranking.personalized


def test_the_users_taste_decides_between_equals(tmp_path):
    bundle = open_with_ranker(tmp_path)
    strangers = search(bundle, "apple", k=2, now_s=0, serving=SERVING)
    assert item_ids(bundle, strangers) == ["a", "b"]
    ranking = search(bundle, "apple", k=2, now_s=0, serving=SERVING, features=bought("c"))  # a green pear
    assert item_ids(bundle, ranking) == ["b", "a"]
    assert ranking.personalized


def test_filters_apply_before_candidates_are_taken(tmp_path):
    bundle = open_with_ranker(tmp_path)
    ranking = search(bundle, "apple", k=5, now_s=0, serving=SERVING, filters=Filters(categories=("Bakery",)))
    assert item_ids(bundle, ranking) == ["d"]
    nothing = search(bundle, "apple", k=5, now_s=0, serving=SERVING, filters=Filters(categories=("Toys",)))
    assert len(nothing.rows) == 0


def test_the_evaluated_ranking_is_the_served_one(tmp_path):
    bundle = open_with_ranker(tmp_path, per_generator=2)
    scores = BundleScorer(bundle, bundle.item_ids).search_scores(["red apple"])[0]
    assert scores[:2].tolist() == [2.0, 1.0]
    assert scores[[2, 3, 4]].max() < 1.0  # no candidates
    served = search(bundle, "red apple", k=2, now_s=0, serving=SERVING)
    assert served.rows.tolist() == np.argsort(-np.where(bundle.available, scores, 0))[:2].tolist()


def test_candidates_stand_before_everything_else():
    scores = behind(np.array([0.9, 0.1, 0.5], np.float32), np.array([1]), np.array([0.0], np.float32))
    assert scores.tolist() == pytest.approx([0.9, 1.0, 0.5])


def test_a_ranker_that_reads_other_features_is_refused(tmp_path):
    features = ("another", *SEARCH_FEATURES[1:])
    with pytest.raises(
        OtherVersionError,
        match=r"search_ranker.onnx of the bundle b1 was trained on other features .*\(25 found, unknown here: another; "
        r"25 needed, missing there: cosine\): train a new bundle, or use the version",
    ):
        open_with_ranker(tmp_path, features=features)


def test_a_ranker_of_another_width_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"search_ranker.onnx .* reads 25 features, 2 are declared"):
        open_with_ranker(tmp_path, features=SEARCH_FEATURES[:2])


def test_a_bundle_without_a_ranker_says_so(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    bundle = load_bundle(tmp_path / "b1")
    with pytest.raises(BundleError, match="has no ranker of search"):
        ranked_search(bundle, "apple", one_hot("apple"), np.zeros(6, np.float32))
