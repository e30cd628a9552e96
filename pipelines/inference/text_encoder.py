"""Text towers: text to unit vector with `tokenizers` and ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import BundleError
from pipelines.inference.sessions import Device, open_session

MODEL, TOKENIZER, TABLE_TOKENIZER = TOWER_FILES = ("model.onnx", "tokenizer.json", "table_tokenizer.json")
"""Files of a text tower's folder; the last one is there where a table of tokens has a vocabulary of its own."""
TABLE_INPUT = "table_input_ids"
"""Input of a model for the tokens of that table, int64 `(n, t)`, padded."""
_BATCH = 64


class TextEncoder:
    """An exported encoder with its tokenizer, and the one of its table of tokens where it has such a table."""

    def __init__(
        self, session: Any, tokenizer_file: Path, max_tokens: int, table_tokenizer_file: Path | None = None
    ) -> None:
        self._session = session
        self._tokenizer = _open_tokenizer(tokenizer_file, max_tokens)
        self._table_tokenizer = _open_tokenizer(table_tokenizer_file, max_tokens) if table_tokenizer_file else None
        wanted = TABLE_INPUT in {value.name for value in session.get_inputs()}
        if wanted != (self._table_tokenizer is not None):
            raise BundleError(
                f"The model beside {tokenizer_file.name} reads {'two vocabularies' if wanted else 'one vocabulary'}, "
                f"{TABLE_TOKENIZER} is {'missing' if wanted else 'one too many'}: use another bundle, or make it again."
            )

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 `(n, dim)`, each row L2 norm 1.

        Texts of similar length share a batch, so that little is spent on padding.
        """
        if len(texts) == 1:
            return self._encode_one(texts[0])
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        table_encodings = self._table_tokenizer.encode_batch_fast(list(texts)) if self._table_tokenizer else None
        vectors: np.ndarray | None = None
        by_length = sorted(range(len(texts)), key=lambda i: sum(encodings[i].attention_mask))
        for start in range(0, len(texts), _BATCH):
            indices = by_length[start : start + _BATCH]
            ids, mask = _batch([encodings[i] for i in indices])
            inputs = {"input_ids": ids, "attention_mask": mask}
            if table_encodings:
                inputs[TABLE_INPUT], _ = _batch([table_encodings[i] for i in indices])
            output = self._session.run(["sentence_embedding"], inputs)[0]
            if vectors is None:
                vectors = np.empty((len(texts), output.shape[1]), np.float32)
            vectors[indices] = output
        if vectors is None:
            raise ValueError("no texts")
        return vectors

    def _encode_one(self, text: str) -> np.ndarray:
        """Do the same for one text, without what only a batch needs: of a small tower that is half the time."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self._table_tokenizer:
            inputs[TABLE_INPUT] = np.array([self._table_tokenizer.encode(text).ids], np.int64)
        vector: np.ndarray = self._session.run(["sentence_embedding"], inputs)[0]
        return vector


def open_text_tower(folder: Path, max_tokens: int, device: Device = "cpu") -> TextEncoder:
    """Open the text tower in a folder.

    Raises:
        BundleError: a file is missing or broken, or the files do not fit together.
    """
    table_tokenizer = folder / TABLE_TOKENIZER
    return TextEncoder(
        open_session(folder / MODEL, device),
        folder / TOKENIZER,
        max_tokens,
        table_tokenizer if table_tokenizer.is_file() else None,
    )


def _open_tokenizer(file: Path, max_tokens: int) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:
        raise BundleError(
            f"{file.name} is not a tokenizer ({str(error).splitlines()[0]}): use another bundle."
        ) from error
    pad_token = (tokenizer.padding or {}).get("pad_token", "[PAD]")
    tokenizer.enable_truncation(max_length=max_tokens)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad_token) or 0, pad_token=pad_token)
    return tokenizer


def _batch(encodings: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return input ids and attention mask, int64 `(n, t)`, as long as the longest of these texts."""
    length = max(sum(encoding.attention_mask) for encoding in encodings)
    ids = np.asarray([encoding.ids[:length] for encoding in encodings], np.int64)
    mask = np.asarray([encoding.attention_mask[:length] for encoding in encodings], np.int64)
    return ids, mask
