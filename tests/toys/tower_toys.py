"""A toy shop in which who bought item 2k buys item 2k + 1 next, and towers over it."""

import numpy as np
import torch

from pipelines.config import TrainingConfig
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.item_tower import ItemInputs, behavior_gate
from pipelines.model.towers import Towers
from pipelines.progress import SilentProgress
from pipelines.training.distributed import ALONE
from pipelines.training.rows import Rows
from pipelines.training.tower_tuning import QueryPairs, tune_towers

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


def toy_model(config: TrainingConfig = CONFIG) -> tuple[Towers, ItemInputs]:
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(N_ITEMS, DIM), dim=-1)
    nothing = torch.zeros(N_ITEMS, dtype=torch.int64)
    items = ItemInputs(text, nothing, nothing, torch.zeros(N_ITEMS), behavior_gate(torch.full((N_ITEMS,), 9.0), 1.0))
    towers = Towers(
        dim=DIM,
        n_items=N_ITEMS,
        n_categories=1,
        n_brands=1,
        behavior_dim=config.behavior_dim,
        n_event_types=len(PREPROCESSING.event_types),
        n_gap_buckets=PREPROCESSING.n_gap_buckets,
        n_activity=1,
    )
    return towers, items


def toy_queries(items: ItemInputs) -> QueryPairs:
    """Return a query for each item: like its text, and still more like the text of the item before it."""
    vectors = torch.nn.functional.normalize(items.text + 1.5 * items.text.roll(1, 0), dim=-1)
    return QueryPairs(vectors.numpy(), np.arange(N_ITEMS))


def tune(towers: Towers, items: ItemInputs, checkpoint, config=CONFIG, progress=None, group=ALONE, quality=None):
    return tune_towers(
        towers,
        items,
        np.full(N_ITEMS, 9.0),
        toy_rows(1),
        toy_rows(2),
        toy_queries(items),
        popularity=np.ones(N_ITEMS, np.float32),
        config=config,
        preprocessing=PREPROCESSING,
        checkpoint=checkpoint,
        progress=progress or SilentProgress(),
        group=group,
        quality=quality,
    )
