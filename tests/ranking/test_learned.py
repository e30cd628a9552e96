"""Requests and the evaluation rank by the same ranker."""

import re

import numpy as np
import pytest
import torch

from pipelines.compression.onnx_export import export_ranker
from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.inference.bundle import load_bundle
from pipelines.inference.manifest import OtherVersionError
from pipelines.inference.preprocessing import Preprocessing, RankerSettings
from pipelines.inference.ranker_features import ranker_features
from pipelines.model.ranker import HEADS, Ranker
from pipelines.ranking.answers import recommend
from pipelines.ranking.learned import rank_candidates, served_scores
from tests.toys.toy_bundle import POPULARITY, User, bought, write_toy_bundle

NOW_S = 1_000.0
FEATURES = ranker_features(("item_to_item", "dense"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The toy bundle with a ranker of random weights."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(3)
    export_ranker(Ranker(len(FEATURES), 4), folder / "ranker.onnx")
    settings = RankerSettings(features=FEATURES, heads=HEADS, head_weights={"purchase": 1.0})
    write_toy_bundle(folder / "toy", preprocessing=Preprocessing(ranker=settings), ranker=folder / "ranker.onnx")
    return load_bundle(folder / "toy")


def test_an_answer_is_the_top_of_the_full_ranking(bundle):
    scores = served_scores(bundle, [bought("a", "c")], [NOW_S])[0]
    answer = recommend(
        bundle, bought("a", "c"), k=4, now_s=NOW_S, serving=ServingConfig(exclude_purchased_days=0, candidates=10)
    )
    assert answer.rows.tolist() == np.argsort(-scores, kind="stable")[:4].tolist()
    np.testing.assert_allclose(answer.scores, scores[answer.rows], atol=1e-6)


def test_candidates_stand_before_everything_else(bundle):
    scores = served_scores(bundle, [bought("a")], [NOW_S])[0]
    vector, _ = bundle.user_embedding(bought("a"), NOW_S)
    rows, ranked = rank_candidates(bundle, bought("a"), vector, NOW_S, bundle.available)
    assert scores[rows].tolist() == pytest.approx(ranked.tolist(), abs=1e-5)
    others = np.setdiff1d(np.arange(bundle.n_items), rows)
    assert ((ranked > 0) & (ranked < 1)).all()
    assert (scores[others] <= 0).all()


def test_a_stranger_gets_popular_items(bundle):
    scores = served_scores(bundle, [User()], [NOW_S])[0]
    assert np.argmax(scores) == np.argmax(POPULARITY)


def test_a_bundle_without_a_ranker_says_so(bundle, tmp_path):
    write_toy_bundle(tmp_path / "plain")
    plain = load_bundle(tmp_path / "plain")
    with pytest.raises(BundleError, match="has no ranker"):
        rank_candidates(plain, bought("a"), plain.item_vectors[0], NOW_S, plain.available)


def test_a_ranker_that_reads_another_number_of_features_is_refused(tmp_path):
    export_ranker(Ranker(3, 4), tmp_path / "ranker.onnx")
    settings = RankerSettings(features=FEATURES, heads=HEADS, head_weights={"purchase": 1.0})
    with pytest.raises(BundleError, match="reads 3 features"):
        write_toy_bundle(tmp_path / "b", preprocessing=Preprocessing(ranker=settings), ranker=tmp_path / "ranker.onnx")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        pytest.param(
            ("item_to_item.shine", *FEATURES[1:]),
            f"{len(FEATURES)} found, unknown here: item_to_item.shine; {len(FEATURES)} needed, "
            "missing there: item_to_item.relative",
            id="another name",
        ),
        pytest.param((*FEATURES[1:], FEATURES[0]), f"the same {len(FEATURES)}, in another order", id="another order"),
        pytest.param(
            ranker_features(("item_to_item", "text", "dense")),
            f"{len(FEATURES) + 6} found, unknown here: text.relative, text.strength, text.rank, text.recent, "
            f"text.newest, text.best; {len(FEATURES)} needed, missing there: none",
            id="a table that the bundle does not have",
        ),
    ],
)
def test_a_ranker_that_was_trained_on_other_features_is_refused(tmp_path, features, message):
    export_ranker(Ranker(len(features), 4), tmp_path / "ranker.onnx")
    settings = RankerSettings(features=features, heads=HEADS, head_weights={"purchase": 1.0})
    expected = f"^ranker.onnx of the bundle b was trained on other features .*{re.escape(f'({message}): train a new')}"
    with pytest.raises(OtherVersionError, match=expected):
        write_toy_bundle(tmp_path / "b", preprocessing=Preprocessing(ranker=settings), ranker=tmp_path / "ranker.onnx")
