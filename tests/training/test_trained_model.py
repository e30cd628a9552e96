import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.errors import DataError
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.towers import read_towers, save_towers
from pipelines.training.catalog import Catalog
from pipelines.training.item_images import ImageVectors
from pipelines.training.trained_model import (
    TrainedFolder,
    item_inputs,
    load_towers_into,
    load_trained_model,
    new_towers,
    table_names,
)

CONFIG = TrainingConfig(behavior_dim=4)
CATALOG = Catalog(
    item_ids=["a", "b"],
    texts=["a", "b"],
    titles=["a", "b"],
    category_names=[""],
    categories=np.zeros(2, np.int64),
    brand_names=[""],
    brands=np.zeros(2, np.int64),
    log_prices=np.zeros(2, np.float32),
    event_counts=np.zeros(2, np.float32),
    popularity=np.zeros(2, np.float32),
)


def looking(encoder: str) -> Catalog:
    """Return the catalogue with a picture of the second item."""
    return replace(CATALOG, images=ImageVectors(encoder, np.array([[0.0, 0.0], [0.6, 0.8]], np.float32)))


def trained(folder, *activity_features: str, catalog: Catalog = CATALOG) -> TrainedFolder:
    """Write towers whose weights are all 1."""
    preprocessing = Preprocessing(activity_features=activity_features)
    towers = new_towers(catalog, 8, CONFIG, preprocessing)
    with torch.no_grad():
        for weight in towers.parameters():
            weight.fill_(1.0)
    save_towers(folder / "towers.safetensors", towers)
    (folder / "tables.json").write_text(json.dumps(table_names(catalog)))
    (folder / "preprocessing.json").write_text(preprocessing.model_dump_json())
    return TrainedFolder(folder)


def test_everything_is_carried_over_from_towers_with_the_same_activity(tmp_path):
    source = trained(tmp_path, "views", "clicks")
    towers = new_towers(CATALOG, 8, CONFIG, source.preprocessing())

    assert load_towers_into(towers, CATALOG, source, ("views", "clicks")) == 2
    assert all((weight == 1).all() for weight in towers.parameters())


def test_towers_that_read_other_activity_give_everything_but_that_layer(tmp_path):
    source = trained(tmp_path, "views", "clicks")
    towers = new_towers(CATALOG, 8, CONFIG, Preprocessing(activity_features=("carts", "ratings")))

    load_towers_into(towers, CATALOG, source, ("carts", "ratings"))
    assert (towers.user.activity.weight == 0).all()
    assert (towers.user.event_type.weight == 1).all()
    assert (towers.item.behavior.weight == 1).all()


def grown_catalog() -> Catalog:
    """`a` stays, `b` left, `0` and `z` are new; a category and a brand are new."""
    return Catalog(
        item_ids=["0", "a", "z"],
        texts=["0", "a", "z"],
        titles=["0", "a", "z"],
        category_names=["", "Fruit"],
        categories=np.array([1, 0, 1]),
        brand_names=["", "Mill"],
        brands=np.array([0, 0, 1]),
        log_prices=np.zeros(3, np.float32),
        event_counts=np.array([0, 5, 0], np.float32),
        popularity=np.zeros(3, np.float32),
    )


def test_a_grown_catalogue_keeps_old_embeddings_bitwise_and_starts_new_ones_fresh(tmp_path):
    source = trained(tmp_path, "views")
    old = read_towers(source.towers)["item.behavior.weight"]
    towers = new_towers(grown_catalog(), 8, CONFIG, source.preprocessing())
    fresh = {name: value.clone() for name, value in towers.state_dict().items()}

    assert load_towers_into(towers, grown_catalog(), source, ("views",)) == 1
    behavior = towers.item.behavior.weight
    assert behavior.shape == (3, 4)
    assert torch.equal(behavior[1], old[0])
    assert torch.equal(behavior[[0, 2]], fresh["item.behavior.weight"][[0, 2]])
    for table, names in (("item.category.weight", ["", "Fruit"]), ("item.brand.weight", ["", "Mill"])):
        value = towers.state_dict()[table]
        assert value.shape[0] == len(names)
        assert (value[0] == 1).all()
        assert (value[1] == 0).all()  # like an unknown one, until it has learnt something


def test_the_first_step_over_a_grown_table_moves_what_it_saw_and_nothing_else(tmp_path):
    """The optimizer has a state for every row, and a row without a gradient stays bitwise where it was."""
    source = trained(tmp_path, "views")
    catalog = grown_catalog()
    towers = new_towers(catalog, 8, CONFIG, source.preprocessing())
    load_towers_into(towers, catalog, source, ("views",))
    before = towers.item.behavior.weight.detach().clone()
    optimizer = torch.optim.AdamW([towers.item.behavior.weight], lr=0.1, weight_decay=0.0)

    towers.item.behavior(torch.tensor([2])).sum().backward()
    optimizer.step()
    assert optimizer.state[towers.item.behavior.weight]["exp_avg"].shape == (3, 4)
    assert torch.equal(towers.item.behavior.weight[:2], before[:2])
    assert (towers.item.behavior.weight[2] != before[2]).all()


@pytest.mark.parametrize(
    ("before", "now", "weight"),
    [
        pytest.param("eyes", "eyes", 1.0, id="same encoder"),
        pytest.param("eyes", "other eyes", 0.0, id="another encoder"),
        pytest.param(None, "eyes", 0.0, id="pictures are new"),
        pytest.param("eyes", None, None, id="pictures are gone"),
    ],
)
def test_what_was_learnt_from_pictures_is_carried_over_where_the_same_encoder_looks_at_them(
    tmp_path, before, now, weight
):
    source = trained(tmp_path, catalog=looking(before) if before else CATALOG)
    catalog = looking(now) if now else CATALOG
    towers = new_towers(catalog, 8, CONFIG, source.preprocessing())
    load_towers_into(towers, catalog, source, ())
    assert (towers.item.text.weight == 1).all()
    if weight is None:
        assert towers.item.image is None
    else:
        assert (towers.item.image.weight == weight).all()


def test_a_catalogue_with_pictures_gives_them_to_the_tower():
    assert item_inputs(CATALOG, torch.zeros(2, 8), 10.0).image is None
    image = item_inputs(looking("eyes"), torch.zeros(2, 8), 10.0).image
    assert image is not None
    assert image.numpy() == pytest.approx(np.array([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("catalog", "found"),
    [
        pytest.param(CATALOG, "none that can be read", id="none"),
        pytest.param(looking("other eyes"), "pictures by other eyes", id="another encoder"),
    ],
)
def test_a_model_is_not_packed_without_the_pictures_it_has_learnt_from(tmp_path, catalog, found):
    source = trained(tmp_path, catalog=looking("eyes"))
    with pytest.raises(DataError, match=f"by eyes, and there are {found} now: set `training.image_encoder`"):
        load_trained_model(source, catalog, CONFIG)
