"""Both halves of the fine-tuning in order: encoder, text vectors, towers, and the folder that holds the result."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipelines.config import TrainingConfig
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.encoder import EmbeddingCache, TextEncoder, encode_texts, encoder_fingerprint, load_encoder
from pipelines.model.encoder_files import refuse_long_texts
from pipelines.progress import Progress
from pipelines.schemas import TrainingSet
from pipelines.training.catalog import Catalog
from pipelines.training.distributed import ALONE, TrainingGroup
from pipelines.training.encoder_tuning import PairSource, tune_encoder
from pipelines.training.encoder_validation import encoder_quality
from pipelines.training.judged_queries import JudgedQueries
from pipelines.training.receipt import find_receipt, make_receipt
from pipelines.training.rivals import RivalSource
from pipelines.training.rows import learnable_rows, load_rows, refuse_rows_without_positives
from pipelines.training.schedule import training_device
from pipelines.training.slices import slice_metrics
from pipelines.training.tower_tuning import QueryPairs, tune_towers
from pipelines.training.trained_model import (
    TrainedFolder,
    item_inputs,
    load_towers_into,
    new_towers,
    save_trained_model,
)


def finetune(
    training_set: TrainingSet,
    target: TrainedFolder,
    champion: TrainedFolder | None,
    catalog: Catalog,
    pairs: PairSource,
    *,
    rivals: RivalSource | None = None,
    held_out: JudgedQueries | None = None,
    config: TrainingConfig,
    cache_dir: Path,
    progress: Progress,
    group: TrainingGroup = ALONE,
) -> None:
    """Train and write `target`; of several processes the main one measures and writes, and the others wait for it.

    Args:
        held_out: Judged queries that are not among the pairs; they choose the encoder's weights.

    Raises:
        ConfigError, DataError: the encoder, a checkpoint or the rows cannot be trained with.
        DivergenceError: the training made the model worse.
    """
    train = load_rows(training_set.folder, "train", catalog)
    slices = {"new": load_rows(training_set.folder, "validation", catalog)}
    if training_set.incremental:
        slices["old"] = load_rows(training_set.folder, "old", catalog)
    learnable_rows(train)  # refused before hours are spent
    refuse_rows_without_positives(slices["new"], "validation")
    device = training_device()
    checkpoints = training_set.folder / "checkpoints"
    preprocessing = Preprocessing(max_tokens=config.max_tokens, activity_features=ACTIVITY_FEATURES)
    encoder, tokenizer = load_encoder(str(champion.encoder) if champion else config.encoder)
    refuse_long_texts(encoder.transformer, config.max_tokens)
    encoder.to(device)
    encoder_fit = tune_encoder(
        encoder,
        tokenizer,
        catalog,
        config=config,
        checkpoint=checkpoints / "encoder.pt",
        progress=progress,
        pairs=pairs,
        rivals=rivals,
        quality=None
        if held_out is None
        else encoder_quality(
            held_out, catalog.texts, tokenizer=tokenizer, max_tokens=config.max_tokens, progress=progress
        ),
        group=group,
    )
    encoder_id = f"{encoder_fingerprint(encoder)}-float32-{config.max_tokens}"

    def embed(texts: list[str], stage: str) -> np.ndarray:
        def encode(missing: Sequence[str]) -> np.ndarray:
            return encode_texts(
                encoder, tokenizer, missing, max_tokens=config.max_tokens, progress=progress, stage=stage
            )

        return _encode_together(EmbeddingCache(cache_dir), texts, encoder_id, encoder.dim, encode, group)

    text_vectors = torch.from_numpy(embed(catalog.texts, "item texts encoded"))
    queries, rows = pairs(config.query_pairs, np.random.default_rng([config.seed, 3]))
    query_pairs = QueryPairs(embed(queries, "queries encoded"), rows)
    towers = new_towers(catalog, encoder.dim, config, preprocessing)
    if champion:
        load_towers_into(towers, catalog, champion, preprocessing.activity_features)
    towers.to(device)
    items = item_inputs(catalog, text_vectors, config.gate_half_count).to(device)

    def measure(when: str) -> dict[str, dict[str, float]]:
        return {
            name + when: slice_metrics(
                towers, items, rows, preprocessing, popularity=catalog.popularity, temperature=config.temperature
            )
            for name, rows in slices.items()
        }

    measured = measure(" before") if champion and group.is_main else {}
    tuning = tune_towers(
        towers,
        items,
        catalog.event_counts,
        train,
        slices["new"],
        query_pairs,
        popularity=catalog.popularity,
        config=config,
        preprocessing=preprocessing,
        checkpoint=checkpoints / "towers.pt",
        progress=progress,
        group=group,
    )
    if group.is_main:
        save_trained_model(
            target.folder,
            encoder=encoder,
            tokenizer=tokenizer,
            towers=towers,
            catalog=catalog,
            preprocessing=preprocessing,
            encoder_fit=encoder_fit,
            tuning=tuning,
            receipt=make_receipt(
                training_set, find_receipt(champion.folder) if champion else None, {**measured, **measure("")}
            ),
        )
    group.wait()


def _encode_together(
    cache: EmbeddingCache, texts: list[str], encoder_id: str, dim: int, encode: TextEncoder, group: TrainingGroup
) -> np.ndarray:
    """Return the embeddings of `texts`; each process encodes its share, and finds those of the others in the cache."""
    if group.size > 1:
        cache.encode(sorted(set(texts))[group.rank :: group.size], encoder_id, dim, encode)
        group.wait()
    return cache.encode(texts, encoder_id, dim, encode)
