"""Tuning the towers on the toy shop: what is learnt, in parts or at once, and when it stops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.errors import ConfigError, DataError, DivergenceError
from pipelines.model.item_tower import ItemInputs
from pipelines.model.towers import Towers
from pipelines.training.distributed import TrainingGroup
from pipelines.training.tower_tuning import QueryPairs, query_mrr, tune_towers, validation_recall
from tests.toys.tower_toys import CONFIG, N_ITEMS, PREPROCESSING, toy_model, toy_queries, toy_rows, tune
from tests.toys.training_workers import KilledAt, KilledError


@pytest.mark.slow
def test_what_follows_what_is_learned(tmp_path):
    towers, items = toy_model()
    before = validation_recall(towers, items, toy_rows(2), PREPROCESSING, k=1)
    result = tune(towers, items, tmp_path / "towers.pt", CONFIG.model_copy(update={"tower_steps": 300}))
    assert before < 0.2
    assert validation_recall(towers, items, toy_rows(2), PREPROCESSING, k=1) > 0.7
    assert result.recall[result.best_step] == max(result.recall.values())


def assert_same(one, other, **tolerance):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name, **tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="float32"),
        pytest.param({"precision": "float16"}, id="float16 with its scale", marks=pytest.mark.slow),
        pytest.param({"objective": "alternating", "accumulate_steps": 2}, id="in turns", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, settings):
    config = CONFIG.model_copy(update=settings)
    undisturbed, items = toy_model()
    expected = tune(undisturbed, items, tmp_path / "undisturbed.pt", config)

    first, items = toy_model()
    with pytest.raises(KilledError):
        tune(first, items, tmp_path / "killed.pt", config, progress=KilledAt(33))
    second, items = toy_model()
    result = tune(second, items, tmp_path / "killed.pt", config)
    assert result.recall == expected.recall
    assert result.losses == expected.losses
    assert_same(undisturbed, second, atol=0.0, rtol=0.0)


def test_a_run_that_was_killed_while_nothing_was_gained_stops_when_an_undisturbed_one_does(tmp_path):
    """Two validations without a gain lie before the kill, and one after it."""
    config = CONFIG.model_copy(update={"tower_learning_rate": 1e-12, "behavior_learning_rate": 1e-12, "patience": 3})
    config = config.model_copy(update={"validate_every": 4})
    towers, items = toy_model()
    with pytest.raises(KilledError):
        tune(towers, items, tmp_path / "towers.pt", config, progress=KilledAt(10))
    again, items = toy_model()
    result = tune(again, items, tmp_path / "towers.pt", config)
    assert list(result.recall) == [0, 4, 8, 12]
    assert max(result.losses) == 12


def test_users_in_parts_are_learnt_from_like_all_at_once(tmp_path):
    """Their negatives are sampled, so they are the same in every part."""
    config = CONFIG.model_copy(update={"objective": "recommend", "tower_steps": 10})
    whole, parts = (toy_model() for _ in range(2))
    expected = tune(*whole, tmp_path / "whole.pt", config)
    found = tune(*parts, tmp_path / "parts.pt", config.model_copy(update={"accumulate_steps": 5}))
    assert list(found.losses.values()) == pytest.approx(list(expected.losses.values()), rel=1e-5)
    assert_same(whole[0], parts[0], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_each_objective_learns_its_task(tmp_path):
    """`user` is the recall@1 of next items, `query` the reciprocal rank of queries' items."""
    found = {}
    for objective in ("recommend", "search", "alternating"):
        towers, items = toy_model()
        config = CONFIG.model_copy(update={"objective": objective, "tower_steps": 160, "validate_every": 80})
        before = towers.user.up.weight.clone()
        result = tune(towers, items, tmp_path / f"{objective}.pt", config)
        assert result.best_step > 0
        assert torch.equal(towers.user.up.weight, before) == (objective == "search")
        user = validation_recall(towers, items, toy_rows(2), PREPROCESSING, k=1)
        found[objective] = (user, query_mrr(towers, items, toy_queries(items)))
    assert found["recommend"][0] > found["search"][0] + 0.3
    assert found["search"][1] > found["recommend"][1] + 0.1
    assert found["alternating"][0] > found["search"][0] + 0.3


def test_reciprocal_rank_of_queries_items():
    """Items are unit vectors; the query 3, 2, 1, 0 likes the first most, so their ranks are 1, 2, 3 and 4."""
    towers = Towers(
        dim=4,
        n_items=4,
        n_categories=1,
        n_brands=1,
        behavior_dim=1,
        n_event_types=1,
        n_gap_buckets=1,
        n_activity=1,
    )
    nothing = torch.zeros(4, dtype=torch.int64)
    items = ItemInputs(torch.eye(4), nothing, nothing, torch.zeros(4), torch.zeros(4))
    query = np.array([3.0, 2.0, 1.0, 0.0], np.float32) / np.sqrt(np.float32(14))
    pairs = QueryPairs(np.stack([query] * 4), np.arange(4))
    assert query_mrr(towers, items, pairs) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_towers_that_diverge_are_stopped(tmp_path):
    towers, items = toy_model()
    config = CONFIG.model_copy(update={"tower_learning_rate": 1e30})
    with pytest.raises(DivergenceError, match=r"tuning of the towers diverged at step .* Lower `training\.tower_learn"):
        tune(towers, items, tmp_path / "towers.pt", config)
    assert not (tmp_path / "towers.pt").exists()


def test_rows_that_nothing_can_be_learnt_from_are_refused(tmp_path):
    towers, items = toy_model()
    nothing = replace(toy_rows(1), new_targets=[np.zeros(0, np.int64)] * len(toy_rows(1)))
    with pytest.raises(DataError, match="None of the 60 training rows"):
        tune_towers(
            towers,
            items,
            np.ones(N_ITEMS),
            nothing,
            toy_rows(2),
            toy_queries(items),
            popularity=np.ones(N_ITEMS, np.float32),
            config=CONFIG,
            preprocessing=PREPROCESSING,
            checkpoint=tmp_path / "towers.pt",
            progress=KilledAt(1),
        )


def test_batch_that_is_too_small_for_its_parts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"`training\.tower_batch` 16 in 1 micro-batch\(es\) gives 16 row\(s\) to 17"):
        tune(*toy_model(), tmp_path / "towers.pt", group=TrainingGroup(0, 17))


def test_checkpoint_of_other_towers_is_refused(tmp_path):
    tune(*toy_model(), tmp_path / "towers.pt", CONFIG.model_copy(update={"tower_steps": 1}))
    other = CONFIG.model_copy(update={"behavior_dim": 5})
    with pytest.raises(
        DataError, match=r"towers\.pt is from another architecture: its `item\.behavior\.weight` has shape"
    ):
        tune(*toy_model(other), tmp_path / "towers.pt", other)


def test_tuning_stops_when_nothing_is_gained(tmp_path):
    towers, items = toy_model()
    config = CONFIG.model_copy(update={"tower_learning_rate": 1e-12, "patience": 1})
    result = tune(towers, items, tmp_path / "towers.pt", config)
    assert max(result.losses) == config.validate_every
    assert result.best_step == 0


def test_recall_leaves_out_what_the_user_has_seen():
    towers, items = toy_model()
    rows = toy_rows(3)
    everything = replace(rows, new_targets=[np.array([0])] * len(rows), seen=[np.arange(1, N_ITEMS)] * len(rows))
    assert validation_recall(towers, items, everything, PREPROCESSING, k=1) == 1.0


def test_the_quality_that_is_asked_for_decides_which_weights_are_kept(tmp_path):
    """It is best at step 2 of 6, at the second of four validations."""
    towers, items = toy_model()
    told = iter([0.1, 0.9, 0.5, 0.4])
    config = CONFIG.model_copy(update={"tower_steps": 6, "validate_every": 2})
    result = tune(towers, items, tmp_path / "towers.pt", config, quality=lambda: next(told))
    assert result.recall == {0: 0.1, 2: 0.9, 4: 0.5, 6: 0.4}
    assert result.best_step == 2
