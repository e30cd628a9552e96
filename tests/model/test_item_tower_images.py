"""Pictures in the item tower: nothing changes for an item without one, and one says what the text does not."""

import numpy as np
import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.item_tower import ItemInputs, ItemTower
from pipelines.model.towers import Towers
from pipelines.progress import SilentProgress
from pipelines.training.rows import Rows
from pipelines.training.tower_tuning import QueryPairs, item_vectors, tune_towers

DIM, IMAGE_DIM = 8, 3


def tower(image_dim: int) -> ItemTower:
    torch.manual_seed(0)
    return ItemTower(DIM, n_items=4, n_categories=2, n_brands=2, behavior_dim=4, image_dim=image_dim)


def inputs(image: torch.Tensor | None) -> ItemInputs:
    texts = torch.nn.functional.normalize(torch.randn(4, DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    ones = torch.ones(4, dtype=torch.int64)
    return ItemInputs(texts, ones, ones, torch.ones(4), torch.full((4,), 0.5), image)


def test_a_tower_without_pictures_has_no_weights_for_them_and_one_with_starts_with_the_same_others():
    without, with_pictures = tower(0).state_dict(), tower(IMAGE_DIM).state_dict()
    assert set(with_pictures) - set(without) == {"image.weight"}
    assert not with_pictures["image.weight"].any()
    assert all(torch.equal(value, with_pictures[name]) for name, value in without.items())


def test_an_item_without_a_picture_is_to_the_last_bit_what_it_was():
    looking = tower(IMAGE_DIM)
    torch.nn.init.normal_(looking.image.weight)
    image = torch.zeros(4, IMAGE_DIM)
    image[0, 1] = 1.0
    rows = torch.arange(4)
    expected, found = tower(0)(rows, inputs(None)), looking(rows, inputs(image))
    assert torch.equal(found[1:], expected[1:])
    assert not torch.allclose(found[0], expected[0])
    assert torch.equal(looking(rows, inputs(None)), expected)


def test_a_picture_changes_nothing_before_anything_was_learnt():
    rows = torch.arange(4)
    assert torch.equal(tower(IMAGE_DIM)(rows, inputs(torch.ones(4, IMAGE_DIM))), tower(0)(rows, inputs(None)))


def test_rows_and_devices_take_the_pictures_along():
    image = torch.eye(4, IMAGE_DIM)
    chosen = inputs(image).rows(torch.tensor([2, 0])).to(torch.device("cpu"))
    assert chosen.image is not None
    assert chosen.image.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert inputs(None).rows(torch.tensor([0])).image is None


N_SEEN, N_ITEMS, N_CLASSES = 60, 90, 3
"""Items bought in the training, and all: nobody has touched the last 30."""


def rows_within_classes(seed: int, n: int = 200) -> Rows:
    """Return users who have one item and take another of the same class, which is the item's number modulo 3."""
    rng = np.random.default_rng(seed)
    had = rng.integers(0, N_SEEN, n)
    taken = (had + 3 * rng.integers(1, N_SEEN // 3, n)) % N_SEEN
    return Rows(
        user_ids=[str(user) for user in range(n)],
        as_of_s=np.full(n, 1_000.0),
        histories=[(np.array([item]), ["purchase"], np.array([900])) for item in had],
        activity=np.zeros((n, 0), np.float32),
        targets=[np.array([item]) for item in taken],
        new_targets=[np.array([item]) for item in taken],
        seen=[np.array([item]) for item in had],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("image_dim", "low", "high"), [(0, 0.0, 0.5), (12, 0.7, 1.0)], ids=["text", "pictures"])
def test_items_nobody_has_touched_lie_beside_those_that_look_alike(tmp_path, image_dim, low, high):
    """A class of items shows in the pictures only, among much that says nothing; behavior tells that it matters."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(N_ITEMS) % N_CLASSES
    image = 0.4 * torch.randn(N_ITEMS, 12, generator=generator)
    image[torch.arange(N_ITEMS), classes] += 2.0
    unit = torch.nn.functional.normalize
    text, nothing = unit(torch.randn(N_ITEMS, DIM, generator=generator)), torch.zeros(N_ITEMS, dtype=torch.int64)
    counts = np.where(np.arange(N_ITEMS) < N_SEEN, 5.0, 0.0).astype(np.float32)
    gate = torch.from_numpy(counts) / 100
    items = ItemInputs(text, nothing, nothing, torch.zeros(N_ITEMS), gate, unit(image) if image_dim else None)
    preprocessing = Preprocessing(activity_features=())
    torch.manual_seed(0)
    towers = Towers(
        dim=DIM,
        n_items=N_ITEMS,
        n_categories=1,
        n_brands=1,
        behavior_dim=4,
        n_event_types=len(preprocessing.event_types),
        n_gap_buckets=preprocessing.n_gap_buckets,
        n_activity=0,
        image_dim=image_dim,
    )
    tune_towers(
        towers,
        items,
        counts,
        rows_within_classes(1),
        rows_within_classes(2, 50),
        QueryPairs(text.numpy(), np.arange(N_ITEMS)),
        popularity=counts,
        config=TrainingConfig(
            tower_steps=100,
            validate_every=50,
            tower_batch=64,
            negatives=32,
            tower_learning_rate=3e-2,
            temperature=0.2,
            objective="recommend",
        ),
        preprocessing=preprocessing,
        checkpoint=tmp_path / "towers.pt",
        progress=SilentProgress(),
    )
    vectors = item_vectors(towers, items)
    cosines = vectors[N_SEEN:] @ vectors[:N_SEEN].T
    nearest = classes[cosines.topk(5).indices]
    share = float((nearest == classes[N_SEEN:].unsqueeze(1)).float().mean())
    assert low <= share <= high
