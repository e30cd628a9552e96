"""Small text towers: from the full encoder to the folder that `open_text_tower` opens, distilled where needed."""

import copy
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipelines.compression.combined_tower import write_combined
from pipelines.compression.distillation import Lessons, Tokens, distil
from pipelines.compression.half_precision import export_half
from pipelines.compression.layer_pruning import choose_layers, layer_count, prune_layers
from pipelines.compression.onnx_export import export_encoder
from pipelines.compression.quantization import quantize_int8
from pipelines.compression.static_tower import StaticTower, starting_vectors, static_tower_model
from pipelines.compression.variants import STATIC, Precision, Variant
from pipelines.compression.vocabulary_pruning import domain_tokens, prune_vocabulary, write_pruned_tokenizer
from pipelines.config import DistillationConfig
from pipelines.inference.text_encoder import MODEL, TABLE_TOKENIZER, TOKENIZER
from pipelines.model.encoder import SentenceEncoder
from pipelines.progress import Progress
from pipelines.stores.files import replacing_folder

TowerKind = Literal["query_towers", "item_text_towers"]
_RECIPE = 2
"""Raised when the same settings give other towers."""


@dataclass(frozen=True)
class FullModel:
    """The fine-tuned encoder that everything is compressed from."""

    encoder: SentenceEncoder
    tokenizer_file: Path
    max_tokens: int


def build_text_tower(
    variant: Variant,
    full: FullModel,
    lessons: Callable[[], Lessons],
    folder: Path,
    *,
    config: DistillationConfig,
    seed: int,
    progress: Progress,
) -> Path:
    """Write the tower of a variant, whole or not at all; what is there already stays.

    A few layers are added up with the static tower, which is built beside them.

    Args:
        lessons: Gives what the teacher says; asked only by a tower that learns or that drops tokens.

    Returns:
        The folder.

    Raises:
        ConfigError: the encoder or its tokenizer cannot be pruned.
    """
    if folder.is_dir():
        return folder
    table = None
    if not variant.static and variant.needs_distillation(layer_count(full.encoder)):
        table = build_text_tower(
            Variant(STATIC), full, lessons, folder.with_name(STATIC), config=config, seed=seed, progress=progress
        )
    with replacing_folder(folder) as work:
        if variant.static:
            _write_static(full, lessons(), work, config, seed, progress)
        else:
            _write_layers(variant, full, lessons, work, config, seed, progress)
        if table is not None:
            shutil.copyfile(table / TOKENIZER, work / TABLE_TOKENIZER)
            write_combined(work / MODEL, (table / MODEL).read_bytes(), work / MODEL)
    return folder


def towers_folder(run_folder: Path, config: DistillationConfig, seed: int, kind: TowerKind = "query_towers") -> Path:
    """Return where the towers of a training run are kept; other settings, or another recipe, give another folder."""
    digest = hashlib.sha256(f"{_RECIPE} {config.model_dump_json()} {seed}".encode()).hexdigest()[:12]
    return run_folder / kind / digest


def _write_layers(
    variant: Variant,
    full: FullModel,
    lessons: Callable[[], Lessons],
    work: Path,
    config: DistillationConfig,
    seed: int,
    progress: Progress,
) -> None:
    """Prune layers and tokens, distil where layers went, export and convert."""
    student, tokenizer = full.encoder, full.tokenizer_file
    n_layers = layer_count(full.encoder)
    learns = variant.needs_distillation(n_layers)
    if variant.domain_vocabulary or learns:  # a token that no lesson has would keep the vector of another network
        kept = domain_tokens(tokenizer, lessons().texts)
        write_pruned_tokenizer(tokenizer, kept, work / TOKENIZER)
        student, tokenizer = prune_vocabulary(student, kept), work / TOKENIZER
    if learns:
        student = prune_layers(student, choose_layers(n_layers, variant.layers))
        distil(
            student,
            token_batches(tokenizer, full.max_tokens),
            lessons(),
            config=config,
            steps=config.steps,
            batch=config.batch,
            learning_rate=config.learning_rate,
            seed=seed,
            progress=progress,
            stage=variant.name,
        )
    if tokenizer == full.tokenizer_file:
        shutil.copyfile(tokenizer, work / TOKENIZER)
    export_encoder(copy.deepcopy(student), work / "float.onnx")
    _convert(work / "float.onnx", work / MODEL, variant.precision)
    (work / "float.onnx").unlink(missing_ok=True)


def _write_static(
    full: FullModel, lessons: Lessons, work: Path, config: DistillationConfig, seed: int, progress: Progress
) -> None:
    """Give each token of the lessons a vector, and teach them; words without one fall apart into those that have."""
    kept = domain_tokens(full.tokenizer_file, lessons.texts, min_count=lessons.min_count)
    write_pruned_tokenizer(full.tokenizer_file, kept, work / TOKENIZER)
    tokens = token_batches(work / TOKENIZER, full.max_tokens)
    ids, mask = tokens(lessons.texts)
    lists = [row[known > 0] for row, known in zip(ids.numpy(), mask.numpy(), strict=True)]
    student = StaticTower(torch.from_numpy(starting_vectors(lists, lessons.vectors, len(kept))))
    distil(
        student,
        tokens,
        lessons,
        config=config,
        steps=config.static_steps,
        batch=config.static_batch,
        learning_rate=config.static_learning_rate,
        seed=seed,
        progress=progress,
        stage=STATIC,
    )
    model = static_tower_model(student, int(ids[mask == 0][0]) if (mask == 0).any() else 0)
    (work / MODEL).write_bytes(model)


def _convert(source: Path, target: Path, precision: Precision) -> None:
    match precision:
        case "int8":
            quantize_int8(source, target)
        case "float16":
            export_half(source, target)
        case "float32":
            source.rename(target)


def token_batches(tokenizer_file: Path, max_tokens: int) -> Tokens:
    """Return what turns texts into input ids and attention mask, int64 `(n, t)` with `t` ≤ `max_tokens`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_truncation(max_length=max_tokens)
    pad_token = (tokenizer.padding or {}).get("pad_token", "[PAD]")
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad_token) or 0, pad_token=pad_token)

    def tokens(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        encodings = tokenizer.encode_batch(list(texts))
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    return tokens
