"""Vocabulary pruning: an encoder that keeps the tokens of its domain, and pieces for everything else.

WordPiece takes the longest piece that it knows. All single characters stay, so a word whose pieces are gone falls apart
into shorter ones; it never becomes [UNK] unless the full tokenizer would not know its characters either.
"""

import copy
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.errors import ConfigError
from pipelines.model.encoder import SentenceEncoder

_PRUNABLE = ("WordPiece", "TemplateProcessing")


def domain_tokens(tokenizer_file: Path, texts: Sequence[str], *, min_count: int = 1) -> list[int]:
    """Return which token ids stay, rising: special ones, single characters, and those that the texts need.

    Args:
        min_count: Times that a token occurs in the texts at least.

    Raises:
        ConfigError: the tokenizer is not WordPiece.
    """
    from tokenizers import Tokenizer

    described = _described(tokenizer_file)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts)):
        counts.update(encoding.ids)
    model = described["model"]
    prefix = model["continuing_subword_prefix"]
    special = {entry["id"] for entry in described["added_tokens"]} | {model["vocab"][model["unk_token"]]}
    single = {number for token, number in model["vocab"].items() if len(token.removeprefix(prefix)) == 1}
    return sorted(special | single | {number for number, count in counts.items() if count >= min_count})


def write_pruned_tokenizer(source: Path, kept: Sequence[int], target: Path) -> None:
    """Write a tokenizer that knows the kept tokens only; their new ids are their places in `kept`.

    Raises:
        ConfigError: the tokenizer is not WordPiece.
    """
    described = _described(source)
    numbers = {old: new for new, old in enumerate(kept)}
    model = described["model"]
    model["vocab"] = {token: numbers[old] for token, old in model["vocab"].items() if old in numbers}
    for entry in described["added_tokens"]:
        entry["id"] = numbers[entry["id"]]
    for entry in ((described.get("post_processor") or {}).get("special_tokens") or {}).values():
        entry["ids"] = [numbers[old] for old in entry["ids"]]
    if padding := described.get("padding"):
        padding["pad_id"] = numbers[padding["pad_id"]]
    target.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")


def prune_vocabulary(encoder: SentenceEncoder, kept: Sequence[int]) -> SentenceEncoder:
    """Return a copy of the encoder whose table of tokens holds the kept ones; the encoder stays as it is."""
    pruned = copy.deepcopy(encoder)
    table = pruned.transformer.get_input_embeddings().weight.detach()
    chosen = nn.Embedding.from_pretrained(table[torch.as_tensor(kept)].clone(), freeze=False)
    pruned.transformer.set_input_embeddings(chosen)
    pruned.transformer.config.vocab_size = len(kept)
    return pruned


def is_prunable(tokenizer_file: Path) -> bool:
    """Whether the vocabulary of a tokenizer can be pruned."""
    return _kind(json.loads(tokenizer_file.read_text(encoding="utf-8"))) == _PRUNABLE


def _kind(described: dict[str, Any]) -> tuple[str, str]:
    processor = described.get("post_processor") or {"type": _PRUNABLE[1]}
    return described["model"].get("type"), processor["type"]


def _described(tokenizer_file: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    kind, processor = _kind(described)
    if (kind, processor) != _PRUNABLE:
        raise ConfigError(
            f"The vocabulary of a {kind} tokenizer with {processor} cannot be pruned, that of WordPiece with "
            "TemplateProcessing can: ask for a variant without `domain vocabulary`."
        )
    return described
