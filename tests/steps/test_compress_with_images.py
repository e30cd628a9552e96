"""Pictures from the catalogue to the bundle, through the real steps, on the toy shop."""

from datetime import UTC, datetime

import numpy as np
import pytest

from pipelines.config import CompressionConfig, HeadraceConfig, TrainingConfig
from pipelines.errors import DataError
from pipelines.inference.bundle import load_bundle
from pipelines.inference.new_items import read_fields
from pipelines.model.towers import read_towers
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.steps.compress_model import compress_model
from pipelines.steps.finetune_model import finetune_model
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.model_registry import ModelRegistry
from pipelines.training.trained_model import TrainedFolder
from tests.toys.catalogue import toy_tables
from tests.toys.images import BLUE, RED, write_color_encoder, write_image
from tests.toys.training_set import toy_rows, write_training_set

pytestmark = pytest.mark.slow


def test_pictures_are_learnt_from_and_packed_and_missed_when_they_are_gone(
    tmp_path, tiny_encoder_folder, mlflow_folder
):
    places, pictures = Places(tmp_path), tmp_path / "pictures"
    for number in range(40):  # the other twenty items have none
        write_image(pictures / f"item-{number:02d}.png", RED if number % 2 else BLUE, (4, 4))
    config = HeadraceConfig(
        training=TrainingConfig(
            encoder=str(tiny_encoder_folder),
            encoder_steps=0,
            tower_steps=10,
            tower_batch=16,
            negatives=16,
            query_pairs=64,
            validate_every=5,
            max_tokens=16,
            tower_learning_rate=1e-2,
            image_encoder=str(write_color_encoder(tmp_path / "colors.onnx")),
            image_folder=pictures,
        ),
        compression=CompressionConfig(min_cosine=0.5, item_text_tower="encoder"),
    )
    tables = toy_tables(tmp_path, "expressions: {image: \"concat(sku, '.png')\"}")
    training_set = write_training_set(places.training / "run-1", toy_rows())
    tracker, progress = ExperimentTracker(mlflow_folder), SilentProgress()
    trained = finetune_model(
        training_set,
        tables=tables,
        training_dir=places.training,
        tracker=tracker,
        config=config.training,
        cache_dir=places.embedding_cache,
        progress=progress,
    )
    weights = read_towers(TrainedFolder(trained.folder).towers)
    assert weights["item.image.weight"].shape == (16, 3)
    assert weights["item.image.weight"].abs().max() > 0

    def compress(run):
        return compress_model(
            training_set.model_copy(update={"run": run}),
            trained,
            tables=tables,
            bundles_dir=places.bundles,
            registry=ModelRegistry(mlflow_folder),
            tracker=tracker,
            config=config,
            cache_dir=places.embedding_cache,
            progress=progress,
            now=datetime(2026, 3, 2, tzinfo=UTC),
        )

    bundle = load_bundle(compress(training_set.run).folder)
    fields = read_fields(bundle.folder)
    assert fields is not None
    assert (fields.image_dim, fields.image_encoder) == (3, TrainedFolder(trained.folder).tables()["image_encoder"][0])
    assert np.linalg.norm(np.asarray(bundle.item_vectors), axis=1) == pytest.approx(1.0, abs=1e-2)

    pictures.rename(tmp_path / "elsewhere")
    pictures.mkdir()
    with pytest.raises(DataError, match=r"has learnt from pictures .* none that can be read now"):
        compress("run-2")
