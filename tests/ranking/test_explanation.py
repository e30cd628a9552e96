"""Who proposed an item and what each part of its score contributes, by rankers that can be worked out by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines.config import ServingConfig
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import Preprocessing, RankerSettings
from pipelines.inference.ranker_features import SEARCH_FEATURES, ranker_features
from pipelines.ranking.answers import recommend, search
from pipelines.ranking.explanation import attended, evidence_of_recommendation, evidence_of_search
from pipelines.ranking.search_ranker import search_ranker_settings
from tests.toys.toy_bundle import User, bought, write_toy_bundle

NOW_S = 100 * 86_400.0
FEATURES = ranker_features(("item_to_item", "dense"))
SERVING = ServingConfig(exclude_purchased_days=0)


def write_ranker(path, names, weights: dict[str, float]):
    """Write a ranker whose logit is a weighted sum of features."""
    table = np.zeros((len(names), 1), np.float32)
    for name, weight in weights.items():
        table[names.index(name)] = weight
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["logits"])],
        "toy",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["c", len(names)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["c", 1])],
        [numpy_helper.from_array(table, "weights")],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The toy bundle with a ranker that reads two features of each kind of request."""
    folder = tmp_path_factory.mktemp("bundles")
    settings = RankerSettings(features=FEATURES, heads=("purchase",), head_weights={"purchase": 1.0})
    write_toy_bundle(
        folder / "b1",
        preprocessing=Preprocessing(ranker=settings, search_ranker=search_ranker_settings(100)),
        ranker=write_ranker(folder / "ranker.onnx", FEATURES, {"item_to_item.relative": 2.0, "dense.relative": 1.0}),
        search_ranker=write_ranker(folder / "search.onnx", SEARCH_FEATURES, {"cosine": 1.0, "lexical_of_best": 3.0}),
    )
    return load_bundle(folder / "b1")


def logistic(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def test_a_recommendation_by_the_ranker(bundle):
    ann = bought("a")
    ranking = recommend(bundle, ann, k=5, now_s=NOW_S, serving=SERVING)
    rows = ranking.rows.tolist()
    evidence = evidence_of_recommendation(bundle, ann, NOW_S, bundle.available, [*rows, 5], {})
    # b: item-to-item 1, dense 1/2 of the best; d: item-to-item 1/2; a itself: dense 1, and it was met before.
    assert evidence.generators[1] == ["item_to_item", "dense"]
    assert evidence.generators[3] == ["item_to_item"]
    assert evidence.generators[0] == ["dense", "repeat"]
    b, d = evidence.contributions[1], evidence.contributions[3]
    assert b["item_to_item"] == pytest.approx(logistic(2.5) - logistic(0.5), abs=2e-3)
    assert b["dense"] == pytest.approx(logistic(2.5) - logistic(2.0), abs=2e-3)
    assert d["item_to_item"] == pytest.approx(logistic(1.0) - logistic(0.0), abs=2e-3)
    assert {part for part, value in d.items() if value} == {"item_to_item"}
    assert 5 not in evidence.generators  # not available, so nobody proposes it


def test_a_search_by_the_ranker(bundle):
    vector = bundle.encode_queries(["green apple"])[0]
    ranking = search(bundle, "green apple", k=5, now_s=NOW_S, serving=SERVING)
    evidence = evidence_of_search(bundle, "green apple", vector, bundle.available, ranking.rows.tolist(), {})
    best = evidence.contributions[1]
    # Logits: cosine 1 and 3 times 1 for the best, 0 for the worst, so what is lost relative to 4.
    assert best == {"dense": pytest.approx(1 / 4, abs=2e-3), "lexical": pytest.approx(3 / 4, abs=2e-3)}
    assert evidence.generators[1] == ["dense", "lexical"]
    scores = dict(zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True))
    for row, of_row in evidence.contributions.items():
        assert sum(of_row.values()) == pytest.approx(scores[row], abs=2e-3)


def test_the_users_taste_in_a_search(bundle):
    ann, weight = bought("c"), SERVING.search_personalization
    vector = bundle.encode_queries(["apple"])[0]
    taste = bundle.user_embedding(ann, NOW_S)[0]
    ranking = search(bundle, "apple", k=5, now_s=NOW_S, serving=SERVING, features=ann)
    rows = ranking.rows.tolist()
    evidence = evidence_of_search(bundle, "apple", vector, bundle.available, rows, {}, taste=(taste, weight))
    # b is a green apple, and the taste is green pears: a cosine of 1/2.
    assert evidence.contributions[1]["user"] == pytest.approx(0.5 * weight / (1 + weight), abs=2e-3)
    for row, score in zip(rows, ranking.scores.tolist(), strict=True):
        assert sum(evidence.contributions[row].values()) == pytest.approx(score, abs=2e-3)


def test_attention_over_the_history(bundle):
    user = User(["a", "gone", "e", "a"], ["view"] * 4, [1, 2, 3, 4])
    events = attended(bundle, user, NOW_S, 2)
    assert [(event.place, event.row) for event in events] == [(3, 0), (2, 4)]
    assert [event.weight for event in events] == pytest.approx([1 / 3] * 2)
    assert attended(bundle, bought("gone"), NOW_S, 2) == []


def test_the_same_state_gives_the_same_evidence(bundle):
    user = bought("a", "c")
    first, again = (
        evidence_of_recommendation(bundle, user, NOW_S, bundle.available, [0, 1, 2, 3, 4], {}) for _ in range(2)
    )
    assert first == again
