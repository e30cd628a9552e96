"""The encoder E: a BERT-like network, mean pooling, L2 norm 1. Shared by item text and query."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from pipelines.model.encoder_files import read_tokenizer, read_transformer
from pipelines.model.pretrained import locate_encoder
from pipelines.progress import Progress

_SHARD = 8_192
"""Texts in one file of the cache: what an interrupted run loses at most."""

TextEncoder = Callable[[Sequence[str]], np.ndarray]
"""Turns `n` texts into float32 `(n, dim)`, each row L2 norm 1."""


class SentenceEncoder(nn.Module):
    """Token ids in, sentence embeddings out.

    Source: mean pooling over token states, as in Sentence-BERT (https://arxiv.org/abs/1908.10084).
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.transformer.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            input_ids: int64 `(n, t)`.
            attention_mask: int64 `(n, t)`, 1 for a token and 0 for padding.

        Returns:
            float32 `(n, dim)`, each row L2 norm 1.
        """
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(pooled.float(), dim=-1)

    def freeze_layers(self, count: int) -> None:
        """Keep the embeddings and the `count` lowest layers as they are; `count` 0 freezes nothing."""
        if count == 0:
            return
        self.transformer.embeddings.requires_grad_(False)
        for layer in self.transformer.encoder.layer[:count]:
            layer.requires_grad_(False)


def load_encoder(name: str) -> tuple[SentenceEncoder, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer.

    Raises:
        ConfigError: there is no such encoder, or its files do not belong together.
    """
    source = locate_encoder(name)
    disable_progress_bar()
    transformer = read_transformer(name, source)
    return SentenceEncoder(transformer), read_tokenizer(name, source, transformer)


def encoder_fingerprint(encoder: SentenceEncoder) -> str:
    """Return 16 hex digits over the weights: two encoders with the same digits give the same vectors."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Return input ids and attention mask, int64 `(n, t)` with `t` ≤ `max_tokens`."""
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, max_tokens: int) -> None:
    """Write a tokenizer, in the state in which it encodes: the file is the same whatever it did before."""
    tokenize(tokenizer, ["text"], max_tokens)  # sets padding and truncation, which are part of the file
    tokenizer.save_pretrained(folder)


def encode_texts(
    encoder: SentenceEncoder,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_tokens: int,
    progress: Progress,
    batch_size: int = 128,
    stage: str = "texts encoded",
) -> np.ndarray:
    """Embed texts, distinct ones once, batches sorted by length so that little is padding.

    Returns:
        float32 `(len(texts), dim)`, each row L2 norm 1, in the order of `texts`.
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    device = next(encoder.parameters()).device
    vectors = np.empty((len(distinct), encoder.dim), dtype=np.float32)
    encoder.eval()
    with torch.inference_mode():
        for start in range(0, len(distinct), batch_size):
            part = distinct[start : start + batch_size]
            ids, mask = tokenize(tokenizer, part, max_tokens)
            vectors[start : start + len(part)] = encoder(ids.to(device), mask.to(device)).cpu().numpy()
            progress.update(stage, start + len(part), len(distinct))
    rows = {text: row for row, text in enumerate(distinct)}
    return vectors[[rows[text] for text in texts]]


class EmbeddingCache:
    """Text embeddings on disk, by encoder and text; shards are only added, never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def encode(self, texts: Sequence[str], encoder_id: str, dim: int, encode: TextEncoder) -> np.ndarray:
        """Return the embeddings of `texts`, calling `encode` for the distinct texts not seen before.

        Args:
            encoder_id: Fingerprint of everything that shapes a vector: weights, token limit, precision.

        Returns:
            float32 `(len(texts), dim)`, each row L2 norm 1.
        """
        from pipelines.stores.files import replacing_file

        folder = self._folder / encoder_id
        known: dict[bytes, np.ndarray] = {}
        for shard in sorted(folder.glob("*.npz")):
            with np.load(shard, allow_pickle=False) as data:
                known.update(zip((key.tobytes() for key in data["keys"]), data["vectors"], strict=True))
        keys = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        todo = list(missing)
        for start in range(0, len(todo), _SHARD):
            part = todo[start : start + _SHARD]
            vectors = encode([missing[key] for key in part])
            stacked = np.frombuffer(b"".join(part), dtype=np.uint8).reshape(-1, 16)
            name = hashlib.sha256(stacked.tobytes()).hexdigest()[:16]
            with replacing_file(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, keys=stacked, vectors=vectors)
            known.update(zip(part, vectors, strict=True))
        out = np.empty((len(texts), dim), dtype=np.float32)
        for row, key in enumerate(keys):
            out[row] = known[key]
        return out
