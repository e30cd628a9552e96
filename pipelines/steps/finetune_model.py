"""Step: tune the encoder and the towers on what users did, starting from the champion where there is one."""

import time
from pathlib import Path

import numpy as np
import torch

from pipelines.config import TrainingConfig
from pipelines.experiments.plots import loss_curve
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.encoder import (
    EmbeddingCache,
    encode_texts,
    encoder_fingerprint,
    load_encoder,
)
from pipelines.progress import Progress
from pipelines.schemas import TrainedModel, TrainingSet
from pipelines.stores.experiment_tracker import ExperimentTracker, StepLog
from pipelines.stores.table_store import TableStore
from pipelines.training.catalog import Catalog, load_catalog
from pipelines.training.encoder_tuning import PairSource, tune_encoder
from pipelines.training.increment import incremental_config
from pipelines.training.receipt import Receipt, find_receipt, make_receipt
from pipelines.training.rows import load_rows
from pipelines.training.schedule import training_device
from pipelines.training.search_pairs import logged_pairs, pair_source
from pipelines.training.slices import slice_metrics
from pipelines.training.tower_tuning import QueryPairs, tune_towers
from pipelines.training.trained_model import (
    TrainedFolder,
    item_inputs,
    load_towers_into,
    new_towers,
    save_trained_model,
)

STEP = "finetune_model"


def finetune_model(
    training_set: TrainingSet,
    *,
    tables: TableStore,
    training_dir: Path,
    tracker: ExperimentTracker,
    config: TrainingConfig,
    cache_dir: Path,
    progress: Progress,
) -> TrainedModel:
    """Write `model/` below the training set's folder.

    A run that was killed goes on from its checkpoints and ends with the same weights; a finished one returns at once.
    The receipt beside the weights says what was read, and where the next run begins.

    Args:
        training_dir: Folder of all training runs; the champion's weights lie in `<champion>/model`.
        cache_dir: Text embeddings by encoder and text.
    """
    started = time.monotonic()
    target = TrainedFolder(training_set.folder / "model")
    champion = TrainedFolder(training_dir / (training_set.champion or "none") / "model")
    from_champion = training_set.champion is not None and champion.exists()
    origin = training_set.champion if from_champion and training_set.champion else config.encoder
    if from_champion and training_set.incremental:
        config = incremental_config(config, training_set.rows["train"], training_set.window_rows)
    with tracker.step(training_set.run, STEP) as log:
        if from_champion and champion.preprocessing().activity_features != ACTIVITY_FEATURES:
            log.tags({"other_activity": f"{origin} read other activity features: that layer of it starts anew."})
        log.params({**config.model_dump(), "started_from": origin, "device": training_device().type})
        log.dataset(
            "training_set", training_set.fingerprint, training_set.rows.get("train", 0), str(training_set.folder)
        )
        with tables.connect() as connection:
            catalog = load_catalog(connection, training_set.validation_start)
            pairs = pair_source(catalog, *logged_pairs(connection, catalog, training_set.validation_start))
        if not target.exists():
            _train(
                training_set, target, champion if from_champion else None, catalog, pairs, config, cache_dir, progress
            )
        history = _log_history(target, log)
        metrics = {
            "validation_recall@10": max(history["validation_recall@10"].values(), default=0.0),
            "validation_recall@10_before": history["validation_recall@10"].get(0, 0.0),
        }
        if receipt := find_receipt(target.folder):
            metrics |= receipt.flat_metrics()
            _log_receipt(receipt, target, log)
        seconds = time.monotonic() - started
        log.metrics({**metrics, "seconds": seconds})
    return TrainedModel(
        run=training_set.run,
        folder=target.folder,
        started_from=origin,
        steps=max(history["tower_loss"], default=0),
        metrics=metrics,
        seconds=seconds,
    )


def _train(
    training_set: TrainingSet,
    target: TrainedFolder,
    champion: TrainedFolder | None,
    catalog: Catalog,
    pairs: PairSource,
    config: TrainingConfig,
    cache_dir: Path,
    progress: Progress,
) -> None:
    device = training_device()
    checkpoints = training_set.folder / "checkpoints"
    preprocessing = Preprocessing(max_tokens=config.max_tokens, activity_features=ACTIVITY_FEATURES)
    encoder, tokenizer = load_encoder(str(champion.encoder) if champion else config.encoder)
    encoder.to(device)
    encoder_losses = tune_encoder(
        encoder,
        tokenizer,
        catalog,
        config=config,
        checkpoint=checkpoints / "encoder.pt",
        progress=progress,
        pairs=pairs,
    )
    cache = EmbeddingCache(cache_dir)
    encoder_id = f"{encoder_fingerprint(encoder)}-float32-{config.max_tokens}"

    def embed(texts: list[str], stage: str) -> np.ndarray:
        return cache.encode(
            texts,
            encoder_id,
            encoder.dim,
            lambda missing: encode_texts(
                encoder, tokenizer, missing, max_tokens=config.max_tokens, progress=progress, stage=stage
            ),
        )

    text_vectors = torch.from_numpy(embed(catalog.texts, "item texts encoded"))
    queries, rows = pairs(config.query_pairs, np.random.default_rng([config.seed, 3]))
    query_pairs = QueryPairs(embed(queries, "queries encoded"), rows)
    towers = new_towers(catalog, encoder.dim, config, preprocessing)
    if champion:
        load_towers_into(towers, catalog, champion, preprocessing.activity_features)
    towers.to(device)
    items = item_inputs(catalog, text_vectors, config.gate_half_count).to(device)
    slices = {"new": load_rows(training_set.folder, "validation", catalog)}
    if training_set.incremental:
        slices["old"] = load_rows(training_set.folder, "old", catalog)

    def measure(when: str) -> dict[str, dict[str, float]]:
        return {
            name + when: slice_metrics(
                towers, items, rows, preprocessing, popularity=catalog.popularity, temperature=config.temperature
            )
            for name, rows in slices.items()
        }

    measured = measure(" before") if champion else {}
    tuning = tune_towers(
        towers,
        items,
        catalog.event_counts,
        load_rows(training_set.folder, "train", catalog),
        slices["new"],
        query_pairs,
        popularity=catalog.popularity,
        config=config,
        preprocessing=preprocessing,
        checkpoint=checkpoints / "towers.pt",
        progress=progress,
    )
    save_trained_model(
        target.folder,
        encoder=encoder,
        tokenizer=tokenizer,
        towers=towers,
        catalog=catalog,
        preprocessing=preprocessing,
        encoder_losses=encoder_losses,
        tuning=tuning,
        receipt=make_receipt(
            training_set, find_receipt(champion.folder) if champion else None, {**measured, **measure("")}
        ),
    )


def _log_receipt(receipt: Receipt, target: TrainedFolder, log: StepLog) -> None:
    log.tags(
        {
            "receipt.fingerprint": receipt.read.fingerprint,
            "receipt.since": receipt.since.isoformat(),
            "receipt.until": receipt.until.isoformat(),
            "receipt.replay_share": f"{receipt.replay_share:.3f}",
            "receipt.generation": receipt.generation,
            "receipt.parent": receipt.parent.run if receipt.parent else "none",
        }
    )
    log.artifact(target.receipt)


def _log_history(target: TrainedFolder, log: StepLog) -> dict[str, dict[int, float]]:
    history = target.history()
    for name, values in history.items():
        log.points(name, values)
    log.figure(loss_curve(history), "loss_curve.png")
    return history
