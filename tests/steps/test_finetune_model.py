"""The training step on the toy shop: one process and two, a loss that diverges, and input that cannot be trained on."""

import json
import shutil

import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.errors import ConfigError, DataError, DivergenceError
from pipelines.progress import SilentProgress
from pipelines.steps.finetune_model import DIVERGED, finetune_model
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.mlflow_client import MlflowBackend
from pipelines.training.trained_model import TrainedFolder
from tests.toys.catalogue import toy_tables
from tests.toys.training_set import toy_rows, write_training_set

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return toy_tables(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def rows():
    return toy_rows()


@pytest.fixture
def config(tiny_encoder_folder):
    return TrainingConfig(
        encoder=str(tiny_encoder_folder),
        encoder_steps=4,
        encoder_batch=8,
        frozen_layers=0,
        tower_steps=30,
        tower_batch=16,
        negatives=16,
        query_pairs=64,
        validate_every=10,
        max_tokens=16,
    )


@pytest.fixture
def train(tables, rows, config, tmp_path, mlflow_folder):
    def train(run="run-1", *, rows=rows, champion=None, before=None, **settings):
        training_set = write_training_set(tmp_path / "training" / run, rows)
        if before:
            before(training_set.folder)
        return finetune_model(
            training_set.model_copy(update={"champion": champion}),
            tables=tables,
            training_dir=tmp_path / "training",
            tracker=ExperimentTracker(mlflow_folder),
            config=config.model_copy(update=settings),
            cache_dir=tmp_path / "cache",
            progress=SilentProgress(),
        )

    return train


def test_training_writes_a_model_that_can_be_read(train, tmp_path):
    trained = train()
    assert trained.steps == 30
    curves = {name for name, points in TrainedFolder(trained.folder).history().items() if points}
    assert curves == {"encoder_loss", "tower_loss", "validation_recall@10"}
    assert trained.metrics["validation_recall@10"] >= trained.metrics["validation_recall@10_before"]


def test_two_processes_train_what_one_trains(train, tiny_encoder_folder, tmp_path):
    """Without dropout in the encoder, which is the one thing that processes do not share."""
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder_folder, folder)
    settings = json.loads((folder / "config.json").read_text())
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(settings | dropout))

    alone = TrainedFolder(train("alone", encoder=str(folder)).folder).history()
    together = TrainedFolder(train("together", encoder=str(folder), processes=2).folder).history()
    for curve in ("encoder_loss", "tower_loss"):
        assert together[curve] == pytest.approx(alone[curve], rel=1e-3), curve
    assert together["validation_recall@10"] == pytest.approx(alone["validation_recall@10"], abs=0.02)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        pytest.param({"encoder_learning_rate": 1e30, "encoder_steps": 8}, "The tuning of the encoder", id="encoder"),
        pytest.param({"tower_learning_rate": 1e30, "encoder_steps": 0}, "The tuning of the towers", id="towers"),
    ],
)
def test_training_that_diverges_leaves_no_model_and_says_so_in_its_run(train, tmp_path, mlflow_folder, settings, part):
    with pytest.raises(DivergenceError, match=rf"{part} diverged .* No model was written and the champion stays"):
        train(**settings)
    assert not (tmp_path / "training" / "run-1" / "model").exists()
    backend = MlflowBackend(mlflow_folder)
    for step in ("finetune_model", None):
        assert part in backend.client.get_run(backend.find_run("run-1", step)).data.tags[DIVERGED]


def checkpoint_of(name, weights):
    def write(folder):
        (folder / "checkpoints").mkdir()
        torch.save({"step": 1, "weights": weights}, folder / "checkpoints" / name)

    return write


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        pytest.param({"max_tokens": 65}, ConfigError, "reads 64 tokens at most", id="more tokens than positions"),
        pytest.param({"frozen_layers": 2}, ConfigError, "the encoder has 2 layers", id="everything frozen"),
        pytest.param({"accumulate_steps": 5}, ConfigError, "raise the batch", id="micro-batches of one"),
        pytest.param(
            {"before": checkpoint_of("encoder.pt", {"encoder.layer.0": torch.ones(2)})},
            DataError,
            "encoder.pt is from another architecture",
            id="other encoder's checkpoint",
        ),
        pytest.param(
            {"before": checkpoint_of("towers.pt", {"item.text.weight": torch.ones(2, 2)}), "encoder_steps": 0},
            DataError,
            "towers.pt is from another architecture",
            id="other towers' checkpoint",
        ),
    ],
)
def test_training_stops_with_a_sentence_and_without_a_model(train, tmp_path, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        train(**settings)
    assert not (tmp_path / "training" / "run-1" / "model").exists()


def test_champion_whose_encoder_lost_its_tokenizer_stops_and_stays_as_it_was(train, tmp_path):
    champion = train("champion").folder
    (champion / "encoder" / "tokenizer.json").unlink()
    shutil.copytree(champion, tmp_path / "before")
    with pytest.raises(ConfigError, match=r"has no tokenizer"):
        train("challenger", champion="champion")
    for path in (tmp_path / "before").rglob("*"):
        if path.is_file():
            assert (champion / path.relative_to(tmp_path / "before")).read_bytes() == path.read_bytes()
