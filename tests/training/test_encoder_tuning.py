"""Tuning a tiny encoder: queries move towards their items, and a killed run goes on to the same weights."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.errors import DivergenceError
from pipelines.model.encoder import load_encoder
from pipelines.progress import SilentProgress
from pipelines.training.encoder_tuning import tune_encoder
from pipelines.training.rivals import Rivals
from tests.toys.training_workers import LONG, KilledAt, KilledError, toy_catalog, tune_toy_encoder

CONFIG = TrainingConfig(
    encoder_steps=12, encoder_batch=8, encoder_learning_rate=1e-2, frozen_layers=1, validate_every=4, max_tokens=16
)


@pytest.fixture
def catalog():
    return toy_catalog()


@pytest.mark.slow
def test_loss_falls(tiny_encoder_folder, catalog, tmp_path):
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    losses = tune_encoder(
        encoder,
        tokenizer,
        catalog,
        config=CONFIG.model_copy(update={"encoder_steps": 150}),
        checkpoint=tmp_path / "encoder.pt",
        progress=SilentProgress(),
    ).losses
    values = [losses[step] for step in sorted(losses)]
    assert np.mean(values[-40:]) < 0.8 * np.mean(values[:40])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="float32"),
        pytest.param({"precision": "bfloat16"}, id="bfloat16", marks=pytest.mark.slow),
        pytest.param({"precision": "float16"}, id="float16 with its scale", marks=pytest.mark.slow),
        pytest.param({"accumulate_steps": 3}, id="micro-batches", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(tiny_encoder_folder, catalog, tmp_path, settings):
    config = CONFIG.model_copy(update=settings)

    def run(checkpoint, progress):
        encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
        losses = tune_encoder(
            encoder, tokenizer, catalog, config=config, checkpoint=tmp_path / checkpoint, progress=progress
        ).losses
        return encoder, losses

    expected, losses = run("undisturbed.pt", SilentProgress())
    with pytest.raises(KilledError):
        run("killed.pt", KilledAt(6))
    found, again = run("killed.pt", SilentProgress())
    assert again == losses
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=0.0, rtol=0.0)


@pytest.mark.parametrize(
    ("qualities", "best_step"),
    [
        pytest.param([0.1, 0.3, 0.2, 0.3], 4, id="the first of equals"),
        pytest.param([0.3, 0.1, 0.2, 0.3], 0, id="as it was, where no step made it better"),
        pytest.param([0.1, 0.2, 0.3, 0.4], 12, id="the last"),
    ],
)
@pytest.mark.parametrize("killed", [pytest.param(False, id="undisturbed"), pytest.param(True, id="killed")])
def test_the_weights_of_the_best_validation_stay(tiny_encoder_folder, catalog, tmp_path, qualities, best_step, killed):
    seen: list[dict[str, torch.Tensor]] = []

    def quality(encoder) -> float:
        encoder.eval()
        seen.append({name: value.clone() for name, value in encoder.state_dict().items()})
        encoder.train()
        return qualities[len(seen) - 1]

    def run(progress):
        encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
        file = tmp_path / "encoder.pt"
        fit = tune_encoder(
            encoder, tokenizer, catalog, config=CONFIG, checkpoint=file, progress=progress, quality=quality
        )
        return encoder, fit

    if killed:
        with pytest.raises(KilledError):
            run(KilledAt(10))
    encoder, fit = run(SilentProgress())
    assert fit.best_step == best_step
    assert fit.quality == dict(zip((0, 4, 8, 12), qualities, strict=True))
    assert not encoder.training
    for name, value in seen[best_step // 4].items():
        torch.testing.assert_close(encoder.state_dict()[name], value, atol=0.0, rtol=0.0)


@pytest.mark.slow
def test_sigkill_changes_nothing(tiny_encoder_folder, tmp_path):
    code = (
        "from pathlib import Path; from tests.toys.training_workers import tune_toy_encoder, LONG\n"
        f"tune_toy_encoder(Path({str(tiny_encoder_folder)!r}), Path({str(tmp_path / 'killed.pt')!r}), config=LONG)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    until = time.monotonic() + 60
    while not (tmp_path / "killed.pt").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert torch.load(tmp_path / "killed.pt", weights_only=True)["step"] < LONG.encoder_steps

    expected, losses = tune_toy_encoder(tiny_encoder_folder, tmp_path / "undisturbed.pt", config=LONG)
    found, again = tune_toy_encoder(tiny_encoder_folder, tmp_path / "killed.pt", config=LONG)
    assert again == losses
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=0.0, rtol=0.0)


def test_a_learning_rate_that_destroys_the_encoder_stops_the_tuning(tiny_encoder_folder, tmp_path):
    """All vectors fall together, so that every pair looks the same: the loss is finite, and that of guessing."""
    config = CONFIG.model_copy(update={"encoder_learning_rate": 10.0, "encoder_steps": 60, "frozen_layers": 0})
    with pytest.raises(DivergenceError, match="the loss is worse than at the start"):
        tune_toy_encoder(tiny_encoder_folder, tmp_path / "c.pt", config=config)


def test_a_loss_that_is_no_number_stops_the_tuning_and_keeps_the_last_good_checkpoint(tiny_encoder_folder, tmp_path):
    config = CONFIG.model_copy(update={"encoder_learning_rate": 1e30, "validate_every": 1})
    with pytest.raises(DivergenceError, match=r"tuning of the encoder diverged at step .* `training\.encoder_learning"):
        tune_toy_encoder(tiny_encoder_folder, tmp_path / "c.pt", config=config)
    with pytest.raises(DivergenceError):  # again, from the checkpoint
        tune_toy_encoder(tiny_encoder_folder, tmp_path / "c.pt", config=config)


def test_frozen_layers_stay_as_they_were(tiny_encoder_folder, catalog, tmp_path):
    before, _ = load_encoder(str(tiny_encoder_folder))
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    tune_encoder(encoder, tokenizer, catalog, config=CONFIG, checkpoint=tmp_path / "c.pt", progress=SilentProgress())
    changed = {
        name for name, value in encoder.state_dict().items() if not torch.equal(value, before.state_dict()[name])
    }
    assert changed
    assert all("layer.1." in name for name in changed)


@pytest.mark.parametrize(
    ("answers", "loss"),
    [
        pytest.param(True, 0.0, id="everything else answers the query too: nothing to tell apart"),
        pytest.param(False, None, id="rivals are negatives"),
    ],
)
def test_what_answers_a_query_is_no_negative_of_it(tiny_encoder_folder, catalog, tmp_path, answers, loss):
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    losses = tune_encoder(
        encoder,
        tokenizer,
        catalog,
        config=CONFIG.model_copy(update={"encoder_steps": 1, "encoder_batch": 4, "encoder_learning_rate": 1e-6}),
        checkpoint=tmp_path / "encoder.pt",
        progress=SilentProgress(),
        pairs=lambda n, rng: (["apple"] * n, np.arange(n)),
        rivals=lambda queries, rows, rng: Rivals(np.array([7, 8]), np.full((len(rows), len(rows) + 2), answers)),
    ).losses
    if loss is None:
        assert losses[1] > 0.5
    else:
        assert losses[1] == pytest.approx(loss, abs=1e-6)
