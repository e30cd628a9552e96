"""The ranker on toys: lists in which one feature decides."""

import numpy as np
import pytest
import torch

from pipelines.compression.onnx_export import export_ranker
from pipelines.config import RankerConfig
from pipelines.inference.ranker import Ranker as ServedRanker
from pipelines.inference.sessions import open_session
from pipelines.model.ranker import HEADS, Ranker
from pipelines.progress import SilentProgress
from pipelines.training.ranker_rows import RankerRows
from pipelines.training.ranker_tuning import fit_ranker, head_weights, holdout_ndcg, holdout_values, scorer_of

N_LISTS, LENGTH = 200, 12
CONFIG = RankerConfig(width=8, epochs=3, min_steps=0, batch=16, learning_rate=2e-2)


def toy_rows(*, clicks: bool = False) -> RankerRows:
    """Lists in which the candidate with the largest first feature was taken; the second feature says nothing."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N_LISTS, LENGTH, 2)).astype(np.float16)
    taken = features[..., 0] == features[..., 0].max(axis=1, keepdims=True)
    nothing = np.zeros(N_LISTS * LENGTH, bool)
    return RankerRows(
        offsets=np.arange(N_LISTS + 1) * LENGTH,
        features=features.reshape(-1, 2),
        purchased=nothing if clicks else taken.ravel(),
        clicked=taken.ravel() if clicks else nothing,
        new=~nothing,
        users=np.arange(N_LISTS),
        n_targets=np.zeros(N_LISTS, np.int64) if clicks else taken.sum(axis=1),
    )


def test_the_feature_that_decides_is_learned():
    rows = toy_rows()
    fit = fit_ranker(rows, config=CONFIG, seed=1, progress=SilentProgress())
    assert fit.heads == ("purchase",)
    assert fit.losses[3] < fit.losses[1]
    everything = np.arange(N_LISTS)
    assert holdout_ndcg(rows, everything, scorer_of(fit.ranker, fit.heads, CONFIG)) > 0.8
    assert holdout_ndcg(rows, everything, lambda features: -features[:, 0].astype(np.float32)) < 0.3


@pytest.mark.parametrize(("min_steps", "passes"), [(0, 3), (20, 3), (100, 10), (101, 11)])
def test_few_rows_are_passed_over_more_often(min_steps, passes):
    """Of 200 lists 160 are learned from, sixteen a step: a pass has ten steps."""
    config = CONFIG.model_copy(update={"min_steps": min_steps})
    fit = fit_ranker(toy_rows(), config=config, seed=1, progress=SilentProgress())
    assert len(fit.losses) == passes


def test_the_same_seed_gives_the_same_ranker():
    one, two = (fit_ranker(toy_rows(), config=CONFIG, seed=4, progress=SilentProgress()).ranker for _ in range(2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])


def test_where_there_are_only_clicks_the_click_head_decides():
    rows = toy_rows(clicks=True)
    fit = fit_ranker(rows, config=CONFIG, seed=1, progress=SilentProgress())
    assert fit.heads == ("click",)
    assert head_weights(fit.heads, CONFIG) == {"click": 1.0}
    assert head_weights(HEADS, CONFIG) == {"click": 0.2, "purchase": 1.0}
    assert fit.holdout_ndcg[fit.best_epoch] > 0.8


def test_ndcg_counts_targets_that_were_never_found():
    rows = toy_rows()
    missed = RankerRows(**{**vars(rows), "n_targets": rows.n_targets + 1})
    best = holdout_ndcg(missed, np.arange(N_LISTS), lambda features: features[:, 0].astype(np.float32))
    assert best == pytest.approx(1 / (1 + 1 / np.log2(3)))


def one_list(purchased, clicked, new, n_targets: int) -> RankerRows:
    """One list whose first feature puts the candidates in the order in which they are given."""
    n = len(purchased)
    return RankerRows(
        offsets=np.array([0, n]),
        features=np.arange(n, 0, -1).astype(np.float16)[:, None],
        purchased=np.array(purchased, bool),
        clicked=np.array(clicked, bool),
        new=np.array(new, bool),
        users=np.zeros(1, np.int64),
        n_targets=np.array([n_targets]),
    )


def by_first_feature(features: np.ndarray) -> np.ndarray:
    return features[:, 0].astype(np.float32)


def test_repeats_do_not_count_as_new():
    rows = one_list([1, 0, 1], [0, 0, 0], [0, 1, 1], 1)
    second = 1 / np.log2(3)
    whole = (1 + 1 / np.log2(4)) / (1 + second)
    found = holdout_ndcg(rows, np.array([0]), by_first_feature)
    assert found == pytest.approx((second + whole) / 2)


@pytest.mark.parametrize("place", range(7))
def test_clicks_beside_a_purchase_do_not_count(place):
    purchased = np.arange(7) == place
    rows = one_list(purchased, ~purchased, np.ones(7), 1)
    assert holdout_ndcg(rows, np.array([0]), by_first_feature) == pytest.approx(1 / np.log2(place + 2))


def test_a_list_with_clicks_alone_counts_only_where_nothing_was_purchased_at_all():
    clicks = one_list([0, 0, 0], [0, 1, 0], [1, 0, 1], 0)
    assert holdout_values(clicks, np.array([0]), by_first_feature)[:, 0] == pytest.approx(
        [np.nan, 1 / np.log2(3)], nan_ok=True
    )
    both = one_list([0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 1, 1], 0)
    both = RankerRows(**{**vars(both), "offsets": np.array([0, 3, 4]), "n_targets": np.array([0, 1])})
    assert holdout_values(both, np.arange(2), by_first_feature)[0] == pytest.approx([np.nan, 1.0], nan_ok=True)
    assert holdout_values(both, np.arange(2), by_first_feature)[1] == pytest.approx([np.nan, 1.0], nan_ok=True)


def test_clicks_are_relative_to_the_clicked_candidates():
    rows = one_list([0, 0, 0, 0], [1, 1, 0, 1], [1, 0, 1, 1], 0)
    new = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    whole = (1 + 1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / np.log2(4))
    assert holdout_values(rows, np.array([0]), by_first_feature)[:, 0] == pytest.approx([new, whole])


def test_the_exported_ranker_scores_like_the_learned_one(tmp_path):
    ranker = Ranker(3, 4)
    features = torch.randn(7, 3)
    ranker.standardize(features)
    export_ranker(ranker, tmp_path / "ranker.onnx")
    served = ServedRanker(open_session(tmp_path / "ranker.onnx", "cpu"), HEADS, {"purchase": 1.0})
    assert served.n_features == 3
    with torch.inference_mode():
        logits = ranker(features)
    np.testing.assert_allclose(served.logits(features.numpy()), logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(served.scores(features.numpy()), torch.sigmoid(logits[:, 1]).numpy(), atol=1e-5)


def test_a_feature_that_never_changes_counts_nothing():
    ranker = Ranker(2, 4)
    ranker.standardize(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
    assert ranker.scale.tolist()[1] == 0
