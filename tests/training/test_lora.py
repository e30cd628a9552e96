"""Low-rank adapters on a tiny encoder: they alone learn, and merging them changes no vector."""

import pytest
import torch

from pipelines.config import TrainingConfig
from pipelines.errors import ConfigError
from pipelines.model.encoder import encode_texts, load_encoder
from pipelines.progress import SilentProgress
from pipelines.training.encoder_weights import choose_weights
from pipelines.training.lora import add_adapters, merge_adapters
from tests.toys.training_workers import CONFIG, TITLES, KilledAt, KilledError, tune_toy_encoder

LORA = CONFIG.model_copy(update={"encoder_tuning": "lora", "lora_rank": 2})


def learning(encoder) -> set[str]:
    return {name for name, weight in encoder.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        pytest.param({"encoder_tuning": "full"}, "all", id="full"),
        pytest.param({"encoder_tuning": "top_layers", "frozen_layers": 0}, "all", id="no frozen layer"),
        pytest.param({"encoder_tuning": "top_layers", "frozen_layers": 1}, "layer 1", id="upper layer"),
        pytest.param({"encoder_tuning": "frozen"}, "none", id="frozen"),
    ],
)
def test_weights_that_learn(tiny_encoder_folder, settings, share):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    everything = set(dict(encoder.named_parameters()))
    wanted = {"all": everything, "layer 1": {name for name in everything if "layer.1." in name}, "none": set()}[share]
    assert len(choose_weights(encoder, TrainingConfig(**settings))) == len(wanted)
    assert learning(encoder) == wanted


def test_freezing_every_layer_is_refused(tiny_encoder_folder):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    with pytest.raises(
        ConfigError, match=r"`training\.frozen_layers` is 2, but the encoder has 2 layers.*to 1 at most"
    ):
        choose_weights(encoder, TrainingConfig(frozen_layers=2))


def test_frozen_encoder_is_not_tuned(tiny_encoder_folder, tmp_path):
    _, losses = tune_toy_encoder(
        tiny_encoder_folder, tmp_path / "c.pt", config=CONFIG.model_copy(update={"encoder_tuning": "frozen"})
    )
    assert losses == {}
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.slow
def test_only_adapters_learn_and_merging_them_keeps_the_vectors(tiny_encoder_folder):
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    names = set(encoder.state_dict())
    add_adapters(encoder, rank=2, seed=0)
    assert learning(encoder)
    assert all("lora_" in name for name in learning(encoder))
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))

    def vectors():
        return encode_texts(encoder, tokenizer, TITLES, max_tokens=16, progress=SilentProgress())

    before = vectors()
    merge_adapters(encoder)
    assert vectors() == pytest.approx(before, abs=1e-5)
    assert set(encoder.state_dict()) == names


@pytest.mark.slow
def test_adapters_learn_leave_an_ordinary_folder_and_survive_a_kill(tiny_encoder_folder, tmp_path):
    untouched, _ = load_encoder(str(tiny_encoder_folder))
    config = LORA.model_copy(update={"encoder_steps": 40, "encoder_learning_rate": 3e-2})
    tuned, losses = tune_toy_encoder(tiny_encoder_folder, tmp_path / "undisturbed.pt", config=config)
    assert sum(losses[step] for step in range(31, 41)) < 0.9 * sum(losses[step] for step in range(1, 11))
    changed = {
        name for name, value in tuned.state_dict().items() if not torch.equal(value, untouched.state_dict()[name])
    }
    assert changed
    assert all(name.endswith("weight") and "embeddings" not in name and "Norm" not in name for name in changed)

    kept = torch.load(tmp_path / "undisturbed.pt", weights_only=True)["weights"]
    assert all("lora_" in name for name in kept)
    with pytest.raises(KilledError):
        tune_toy_encoder(tiny_encoder_folder, tmp_path / "killed.pt", config=config, progress=KilledAt(6))
    resumed, again = tune_toy_encoder(tiny_encoder_folder, tmp_path / "killed.pt", config=config)
    assert again == losses
    for name, value in tuned.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=0.0, rtol=0.0)

    tuned.transformer.save_pretrained(tmp_path / "encoder")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "encoder" / file).write_bytes((tiny_encoder_folder / file).read_bytes())
    reread, _ = load_encoder(str(tmp_path / "encoder"))
    for name, value in tuned.state_dict().items():
        assert torch.equal(reread.state_dict()[name], value), name
