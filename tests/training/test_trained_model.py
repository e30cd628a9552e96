import json

import numpy as np
import torch

from pipelines.config import TrainingConfig
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.towers import save_towers
from pipelines.training.catalog import Catalog
from pipelines.training.trained_model import TrainedFolder, load_towers_into, new_towers, table_names

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


def trained(folder, *activity_features: str) -> TrainedFolder:
    """Write towers whose weights are all 1."""
    preprocessing = Preprocessing(activity_features=activity_features)
    towers = new_towers(CATALOG, 8, CONFIG, preprocessing)
    with torch.no_grad():
        for weight in towers.parameters():
            weight.fill_(1.0)
    save_towers(folder / "towers.safetensors", towers)
    (folder / "tables.json").write_text(json.dumps(table_names(CATALOG)))
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
