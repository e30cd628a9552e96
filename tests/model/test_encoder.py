"""The encoder on a tiny random BERT: pooling, order of results, and the cache."""

import numpy as np
import pytest
import torch

from pipelines.model.encoder import (
    EmbeddingCache,
    encode_texts,
    encoder_fingerprint,
    load_encoder,
    save_tokenizer,
    tokenize,
)
from pipelines.progress import SilentProgress

TEXTS = ["red apple", "green pear", "a much longer text about red and green fruit", "red apple"]


@pytest.fixture
def tiny(tiny_encoder_folder):
    return load_encoder(str(tiny_encoder_folder))


def test_vectors_have_length_one_and_come_in_the_order_of_the_texts(tiny):
    encoder, tokenizer = tiny
    vectors = encode_texts(encoder, tokenizer, TEXTS, max_tokens=16, progress=SilentProgress(), batch_size=2)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    for row, text in enumerate(TEXTS):
        alone = encode_texts(encoder, tokenizer, [text], max_tokens=16, progress=SilentProgress())
        assert vectors[row] == pytest.approx(alone[0], abs=1e-5)


def test_padding_takes_no_part_in_the_mean(tiny):
    encoder, tokenizer = tiny
    ids, mask = tokenize(tokenizer, ["red apple"], 16)
    padded = torch.nn.functional.pad(ids, (0, 5)), torch.nn.functional.pad(mask, (0, 5))
    with torch.no_grad():
        torch.testing.assert_close(encoder(ids, mask), encoder(*padded), atol=1e-5, rtol=1e-5)


def test_a_tokenizer_is_saved_alike_whether_it_was_used_before_or_not(tmp_path, tiny_encoder_folder):
    for name in ("fresh", "used"):
        _, tokenizer = load_encoder(str(tiny_encoder_folder))
        if name == "used":
            tokenize(tokenizer, ["red apple", "pear"], 7)
        save_tokenizer(tokenizer, tmp_path / name, 16)
    fresh, used = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("fresh", "used"))
    assert fresh == used


def test_fingerprint_changes_with_a_single_weight(tiny):
    encoder, _ = tiny
    before = encoder_fingerprint(encoder)
    assert encoder_fingerprint(encoder) == before
    with torch.no_grad():
        encoder.transformer.embeddings.word_embeddings.weight[0, 0] += 1.0
    assert encoder_fingerprint(encoder) != before


def test_frozen_layers_do_not_train(tiny):
    encoder, _ = tiny
    encoder.freeze_layers(1)
    frozen = {name for name, value in encoder.named_parameters() if not value.requires_grad}
    assert any("layer.0." in name for name in frozen)
    assert any("embeddings" in name for name in frozen)
    assert not any("layer.1." in name for name in frozen)


def test_cache_encodes_each_text_once(tmp_path):
    asked: list[list[str]] = []

    def encode(texts):
        asked.append(list(texts))
        return np.array([[len(text), 0.0] for text in texts], np.float32)

    cache = EmbeddingCache(tmp_path)
    first = cache.encode(["a", "bbb", "a"], "encoder-1", 2, encode)
    second = EmbeddingCache(tmp_path).encode(["bbb", "cc"], "encoder-1", 2, encode)
    cache.encode(["a"], "encoder-2", 2, encode)
    assert first[:, 0].tolist() == [1, 3, 1]
    assert second[:, 0].tolist() == [3, 2]
    assert asked == [["a", "bbb"], ["cc"], ["a"]]
