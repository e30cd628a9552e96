"""Tuning a tiny encoder: queries move towards their items, and a killed run goes on to the same weights."""

import numpy as np
import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.model.encoder import load_encoder
from pipelines.progress import SilentProgress
from pipelines.training.catalog import Catalog
from pipelines.training.encoder_tuning import tune_encoder

CONFIG = TrainingConfig(
    encoder_steps=12, encoder_batch=8, encoder_learning_rate=1e-2, frozen_layers=1, validate_every=4, max_tokens=16
)
TITLES = [f"{color} {fruit}" for color in ("red", "green", "blue") for fruit in ("apple", "pear", "plum")]


@pytest.fixture
def catalog():
    n = len(TITLES)
    zeros = np.zeros(n, np.int64)
    return Catalog([str(i) for i in range(n)], TITLES, TITLES, [""], zeros, [""], zeros, *[zeros.astype("f4")] * 3)


class KilledError(Exception):
    pass


class KilledAt:
    def update(self, stage, done, total=None, note=""):
        if done == 6:
            raise KilledError


def test_loss_falls(tiny_encoder_folder, catalog, tmp_path):
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    losses = tune_encoder(
        encoder,
        tokenizer,
        catalog,
        config=CONFIG.model_copy(update={"encoder_steps": 150}),
        checkpoint=tmp_path / "encoder.pt",
        progress=SilentProgress(),
    )
    values = [losses[step] for step in sorted(losses)]
    assert np.mean(values[-40:]) < 0.8 * np.mean(values[:40])


def test_a_killed_run_goes_on_to_the_same_weights(tiny_encoder_folder, catalog, tmp_path):
    def run(checkpoint, progress):
        encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
        losses = tune_encoder(
            encoder, tokenizer, catalog, config=CONFIG, checkpoint=tmp_path / checkpoint, progress=progress
        )
        return encoder, losses

    expected, losses = run("undisturbed.pt", SilentProgress())
    with pytest.raises(KilledError):
        run("killed.pt", KilledAt())
    found, again = run("killed.pt", SilentProgress())
    assert again == losses
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=0.0, rtol=0.0)


def test_frozen_layers_stay_as_they_were(tiny_encoder_folder, catalog, tmp_path):
    before, _ = load_encoder(str(tiny_encoder_folder))
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    tune_encoder(encoder, tokenizer, catalog, config=CONFIG, checkpoint=tmp_path / "c.pt", progress=SilentProgress())
    changed = {
        name for name, value in encoder.state_dict().items() if not torch.equal(value, before.state_dict()[name])
    }
    assert changed
    assert all("layer.1." in name for name in changed)
