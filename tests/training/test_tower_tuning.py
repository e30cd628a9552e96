"""Tuning the towers on a toy shop where who bought item 2k buys item 2k + 1 next."""

import numpy as np
import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.item_tower import ItemInputs, behavior_gate
from pipelines.model.towers import Towers
from pipelines.progress import SilentProgress
from pipelines.training.rows import Rows
from pipelines.training.tower_tuning import QueryPairs, tune_towers, validation_recall

N_ITEMS, DIM, N_USERS = 40, 16, 60
PREPROCESSING = Preprocessing(activity_features=("a",))
CONFIG = TrainingConfig(
    tower_steps=60,
    validate_every=20,
    tower_batch=16,
    negatives=64,
    tower_learning_rate=3e-3,
    gate_half_count=1.0,
    behavior_dim=8,
    patience=10,
    temperature=0.1,
)


def toy_rows(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    firsts = rng.integers(0, N_ITEMS // 2, N_USERS) * 2
    return Rows(
        user_ids=[str(user) for user in range(N_USERS)],
        as_of_s=np.full(N_USERS, 1_000.0),
        histories=[(np.array([first]), ["purchase"], np.array([900])) for first in firsts],
        activity=np.ones((N_USERS, 1), np.float32),
        targets=[np.array([first + 1]) for first in firsts],
        new_targets=[np.array([first + 1]) for first in firsts],
        seen=[np.array([first]) for first in firsts],
    )


def toy_model() -> tuple[Towers, ItemInputs]:
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(N_ITEMS, DIM), dim=-1)
    nothing = torch.zeros(N_ITEMS, dtype=torch.int64)
    items = ItemInputs(text, nothing, nothing, torch.zeros(N_ITEMS), behavior_gate(torch.full((N_ITEMS,), 9.0), 1.0))
    towers = Towers(
        dim=DIM,
        n_items=N_ITEMS,
        n_categories=1,
        n_brands=1,
        behavior_dim=CONFIG.behavior_dim,
        n_event_types=len(PREPROCESSING.event_types),
        n_gap_buckets=PREPROCESSING.n_gap_buckets,
        n_activity=1,
    )
    return towers, items


def tune(towers: Towers, items: ItemInputs, checkpoint, config: TrainingConfig = CONFIG, progress=None):
    pairs = QueryPairs(items.text.numpy(), np.arange(N_ITEMS))
    return tune_towers(
        towers,
        items,
        np.full(N_ITEMS, 9.0),
        toy_rows(1),
        toy_rows(2),
        pairs,
        popularity=np.ones(N_ITEMS, np.float32),
        config=config,
        preprocessing=PREPROCESSING,
        checkpoint=checkpoint,
        progress=progress or SilentProgress(),
    )


def test_what_follows_what_is_learned(tmp_path):
    towers, items = toy_model()
    before = validation_recall(towers, items, toy_rows(2), PREPROCESSING, k=1)
    result = tune(towers, items, tmp_path / "towers.pt", CONFIG.model_copy(update={"tower_steps": 300}))
    assert before < 0.2
    assert validation_recall(towers, items, toy_rows(2), PREPROCESSING, k=1) > 0.7
    assert result.recall[result.best_step] == max(result.recall.values())


class KilledError(Exception):
    pass


class KilledAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, stage, done, total=None, note=""):
        if done == self.step:
            raise KilledError


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    undisturbed, items = toy_model()
    expected = tune(undisturbed, items, tmp_path / "undisturbed.pt")

    first, items = toy_model()
    with pytest.raises(KilledError):
        tune(first, items, tmp_path / "killed.pt", progress=KilledAt(33))
    second, items = toy_model()
    result = tune(second, items, tmp_path / "killed.pt")
    assert result.recall == expected.recall
    assert result.losses == expected.losses
    for name, value in undisturbed.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, atol=0.0, rtol=0.0)


def test_tuning_stops_when_nothing_is_gained(tmp_path):
    towers, items = toy_model()
    config = CONFIG.model_copy(update={"tower_learning_rate": 1e-12, "patience": 1})
    result = tune(towers, items, tmp_path / "towers.pt", config)
    assert max(result.losses) == config.validate_every
    assert result.best_step == 0


def test_recall_leaves_out_what_the_user_has_seen():
    towers, items = toy_model()
    rows = toy_rows(3)
    everything = Rows(
        rows.user_ids,
        rows.as_of_s,
        rows.histories,
        rows.activity,
        rows.targets,
        [np.array([0])] * len(rows),
        [np.arange(1, N_ITEMS)] * len(rows),
    )
    assert validation_recall(towers, items, everything, PREPROCESSING, k=1) == 1.0
