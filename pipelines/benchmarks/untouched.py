"""Texts as the untouched pre-trained encoder reads them: a baseline, and the measure of diversity."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.config import TrainingConfig
from pipelines.progress import Progress

MAX_TOKENS = 64
TextEncoder = Callable[[Sequence[str]], np.ndarray]


def untouched_encoder(cache: Path, progress: Progress, name: str | None = None) -> TextEncoder:
    """Return an encoder of texts that remembers on disk: texts -> float32 `(n, dim)`, each row L2 norm 1.

    Weights are read when it is called first; an interrupted call goes on where it was.

    Args:
        cache: Folder of embeddings by encoder and text.
        name: Encoder (default: the one that training starts from).

    Raises:
        ConfigError: on the first call, there is no such encoder.
    """

    def encode_all(texts: Sequence[str]) -> np.ndarray:
        from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint, load_encoder

        encoder, tokenizer = load_encoder(name or TrainingConfig().encoder)

        def encode(part: Sequence[str]) -> np.ndarray:
            return encode_texts(encoder, tokenizer, part, max_tokens=MAX_TOKENS, progress=progress, batch_size=64)

        distinct = sorted(set(texts), key=lambda text: (len(text), text))  # alike lengths in a shard: little padding
        key = f"{encoder_fingerprint(encoder)}-float32-{MAX_TOKENS}"
        vectors = EmbeddingCache(cache).encode(distinct, key, encoder.dim, encode)
        rows = {text: row for row, text in enumerate(distinct)}
        found: np.ndarray = vectors[[rows[text] for text in texts]]
        return found

    return encode_all
