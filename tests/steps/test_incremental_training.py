"""Two trainings one after the other on the toy shop: the second reads what the first has not."""

from datetime import datetime, timedelta

import pytest

from pipelines.config import FeatureConfig, TrainingConfig, TrainingSetConfig
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.schemas import TrainingSet
from pipelines.steps.build_features import build_features
from pipelines.steps.build_training_set import build_training_set
from pipelines.steps.finetune_model import finetune_model
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.training.receipt import Receipt, WindowReadError, find_receipt
from tests.toys.catalogue import NOW, START, toy_window

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis"),
]
ROWS = TrainingSetConfig(window_days=30, validation_days=4, test_days=4, min_eval_rows=1, replay_share=0.5)


class Shop:
    """The toy shop as it grows."""

    def __init__(self, home, encoder, mlflow_folder) -> None:
        self.places = Places(home)
        self.tracker = ExperimentTracker(mlflow_folder)
        self.config = TrainingConfig(
            encoder=str(encoder),
            encoder_steps=2,
            encoder_batch=8,
            frozen_layers=0,
            tower_steps=30,
            tower_batch=16,
            negatives=16,
            query_pairs=64,
            validate_every=10,
            max_tokens=16,
            incremental_steps_share=0.5,
        )

    def grow(self, until: datetime) -> None:
        self.tables, window = toy_window(self.places.home, until=until)
        self.tables.accept(window, rejections={})
        build_features(
            tables=self.tables,
            features_dir=self.places.features,
            config=FeatureConfig(),
            until=until,
            progress=SilentProgress(),
        )

    def training_set(self, champion: str | None = None) -> TrainingSet:
        return build_training_set(
            tables=self.tables,
            feature_store=FeatureStoreClient(places=self.places, environment={}),
            training_dir=self.places.training,
            config=ROWS,
            model_fingerprint="m",
            champion=champion,
            parent=self.receipt(champion) if champion else None,
            progress=SilentProgress(),
        )

    def train(self, champion: str | None = None) -> TrainingSet:
        training_set = self.training_set(champion)
        self.trained = finetune_model(
            training_set,
            tables=self.tables,
            training_dir=self.places.training,
            tracker=self.tracker,
            config=self.config,
            cache_dir=self.places.embedding_cache,
            progress=SilentProgress(),
        )
        return training_set

    def receipt(self, run: str) -> Receipt:
        found = find_receipt(self.places.training / run / "model")
        assert found is not None
        return found


def test_the_second_training_starts_where_the_first_one_ended(tmp_path, tiny_encoder_folder, mlflow_folder):
    shop = Shop(tmp_path, tiny_encoder_folder, mlflow_folder)
    shop.grow(START + timedelta(days=48))
    first = shop.train()
    receipt = shop.receipt(first.run)
    assert (receipt.generation, receipt.parent, receipt.replay_share) == (0, None, 0)
    assert (receipt.since, receipt.until) == (first.since, START + timedelta(days=40))
    assert set(receipt.metrics) == {"new"}
    assert shop.trained.steps == 30

    with pytest.raises(WindowReadError, match="would be read a second time"):
        shop.training_set(first.run)

    shop.grow(NOW)
    second = shop.train(first.run)
    child = shop.receipt(second.run)
    assert child.parent == receipt.summary()
    assert (child.generation, child.since, child.until) == (1, receipt.until, NOW - timedelta(days=8))
    assert child.read.new_rows == second.rows["train"] - second.replayed > 0
    assert child.replay_share == pytest.approx(0.5)
    assert child.read.first >= receipt.until > child.read.replayed_last
    assert set(child.metrics) == {"new", "old", "new before", "old before"}
    assert child.metrics["old"]["rows"] == second.rows["old"] > 0
    assert shop.trained.started_from == first.run
    assert shop.trained.steps <= 15
    assert shop.trained.metrics["receipt.old.ndcg@10"] == child.metrics["old"]["ndcg@10"]
