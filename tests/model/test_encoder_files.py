"""Encoder folders in which something is missing or does not fit: a sentence each, and no random weights."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.errors import ConfigError
from pipelines.model.encoder import load_encoder
from pipelines.model.encoder_files import refuse_long_texts


def settings(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def broken_weights(folder):
    (folder / "model.safetensors").write_bytes(b"x" * 100)


def weight_that_is_nan(folder):
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_vocabulary(size):
    def change(folder):
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        words = [*list(content["model"]["vocab"])[:4], *(f"word{number}" for number in range(size - 4))]
        content["model"]["vocab"] = {word: number for number, word in enumerate(words)}
        path.write_text(json.dumps(content))

    return change


def no_padding_token(folder):
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    del content["pad_token"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(without("tokenizer.json"), r"has no tokenizer \(.*put tokenizer\.json", id="no vocabulary"),
        pytest.param(
            without("tokenizer.json", "tokenizer_config.json"),
            r"has no tokenizer \(its vocabulary holds no word\): put tokenizer\.json",
            id="no tokenizer",
        ),
        pytest.param(other_vocabulary(80), "has 80 tokens, but the embedding table has 66 rows", id="more words"),
        pytest.param(other_vocabulary(20), "has 20 tokens, but the embedding table has 66 rows", id="less words"),
        pytest.param(no_padding_token, "no padding token.*set `pad_token`", id="no padding"),
        pytest.param(without("model.safetensors"), "cannot be loaded: .*model.safetensors", id="no weights"),
        pytest.param(broken_weights, "cannot be loaded: .*header", id="weights that are none"),
        pytest.param(
            weight_that_is_nan, r"hold numbers that are not finite, first `embeddings\.LayerNorm\.bias`", id="NaN"
        ),
        pytest.param(settings(hidden_size=32), "other shapes than its config.json", id="other width"),
        pytest.param(
            settings(num_hidden_layers=4), r"lacks 32 of the weights .* first `encoder\.layer\.2\.", id="more layers"
        ),
        pytest.param(settings(model_type="distilbert"), "lacks .* different architectures", id="other architecture"),
        pytest.param(settings(model_type="nonsense"), "model type `nonsense`", id="unknown architecture"),
    ],
)
def test_encoder_folder_that_does_not_fit_together_is_refused(tiny_encoder_folder, tmp_path, change, sentence):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder_folder, folder)
    load_encoder(str(folder))
    change(folder)
    with pytest.raises(ConfigError, match=rf"encoder {folder} .*{sentence}"):
        load_encoder(str(folder))


def test_encoder_without_a_pooler_is_whole(tiny_encoder_folder, caplog):
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    assert encoder.transformer.pooler is None
    assert len(tokenizer) == 66
    assert not caplog.records


def test_more_tokens_than_positions_are_refused(tiny_encoder_folder):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    refuse_long_texts(encoder.transformer, 64)
    with pytest.raises(ConfigError, match=r"`training\.max_tokens` is 65, but the encoder reads 64 tokens at most"):
        refuse_long_texts(encoder.transformer, 65)
