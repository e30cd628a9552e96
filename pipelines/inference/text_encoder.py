"""The query tower: text to unit vector with `tokenizers` and ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import BundleError

_BATCH = 64


class TextEncoder:
    """An exported encoder with its tokenizer."""

    def __init__(self, session: Any, tokenizer_file: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_file.read_text(encoding="utf-8"))
        except Exception as error:
            raise BundleError(
                f"{tokenizer_file.name} is not a tokenizer ({str(error).splitlines()[0]}): use another bundle."
            ) from error
        padding = self._tokenizer.padding or {}
        pad_token = padding.get("pad_token", "[PAD]")
        pad_id = self._tokenizer.token_to_id(pad_token) or 0
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._tokenizer.enable_padding(pad_id=pad_id, pad_token=pad_token)
        self._session = session

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 `(n, dim)`, each row L2 norm 1.

        Texts of similar length share a batch, so that little is spent on padding.
        """
        if len(texts) == 1:
            return self._encode_one(texts[0])
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        vectors: np.ndarray | None = None
        by_length = sorted(range(len(texts)), key=lambda i: sum(encodings[i].attention_mask))
        for start in range(0, len(texts), _BATCH):
            indices = by_length[start : start + _BATCH]
            length = max(sum(encodings[i].attention_mask) for i in indices)
            output = self._session.run(
                ["sentence_embedding"],
                {
                    "input_ids": np.asarray([encodings[i].ids[:length] for i in indices], np.int64),
                    "attention_mask": np.asarray([encodings[i].attention_mask[:length] for i in indices], np.int64),
                },
            )[0]
            if vectors is None:
                vectors = np.empty((len(texts), output.shape[1]), np.float32)
            vectors[indices] = output
        if vectors is None:
            raise ValueError("no texts")
        return vectors

    def _encode_one(self, text: str) -> np.ndarray:
        """Do the same for one text, without what only a batch needs: of a small tower that is half the time."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        vector: np.ndarray = self._session.run(
            ["sentence_embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        )[0]
        return vector
