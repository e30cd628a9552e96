"""The case `headrace` of the recommendation bench: the loop's own training and packaging, on a folder of data.

The towers learn from what was known before the validation rows, the ranking on those rows, and the bundle is measured
as it would be served: opened from its folder, with tables and popularity as of the test. No part has seen a test row.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipelines.benchmarks.ablation import Ablation, parts_of
from pipelines.benchmarks.protocols import RecommendTask, TaskRows
from pipelines.benchmarks.task_training import (
    asked_rows,
    known_users,
    latest_popularity,
    moment_of,
    ranking_rows,
    task_catalog,
    task_events,
    task_items,
    training_rows,
)
from pipelines.compression.packaging import (
    THEN,
    Knowledge,
    Labels,
    TrainedParts,
    export_models,
    package_bundle,
)
from pipelines.config import HeadraceConfig
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint, load_encoder, save_tokenizer
from pipelines.progress import Progress
from pipelines.ranking.learned import served_scores
from pipelines.retrieval.dense import dense_scores
from pipelines.training.catalog import Catalog
from pipelines.training.generators import build_behavior_tables, build_text_tables
from pipelines.training.item_images import ItemImages
from pipelines.training.schedule import training_device
from pipelines.training.tower_tuning import QueryPairs, tune_towers
from pipelines.training.trained_model import item_inputs, new_towers

HEADRACE, DENSE = "headrace", "headrace_dense"
Scorer = Callable[[TaskRows], np.ndarray]
_QUICK_STEPS = 20


def fit_recommender(
    task: RecommendTask,
    *,
    seed: int,
    work: Path,
    quick: bool,
    progress: Progress,
    ablation: bool = False,
    images: ItemImages | None = None,
) -> Mapping[str, Scorer]:
    """Train, package and open the bundle; a finished one is opened again.

    Args:
        ablation: Add what would be served without each part; each costs as much as learning and measuring the ranking.
        images: Reads the pictures of the items; None does without.

    Returns:
        Full rankings of test rows by case: what would be served, the user tower alone, and `without <part>`.
    """
    folder, config = work / "bundle", recipe(seed, quick=quick)
    if not (folder / "manifest.json").is_file():
        catalog = task_catalog(task, task.known_before_validation)
        if images is not None:
            catalog = replace(catalog, images=images.vectors(task.items.images, progress))
        _make_bundle(task, catalog, folder, config, work, progress)
    bundle = load_bundle(folder)
    scorers: dict[str, Scorer] = {HEADRACE: partial(_served, task, bundle), DENSE: partial(_dense, task, bundle)}
    if ablation:
        for part in parts_of(bundle):
            ablated = Ablation(
                part,
                then=work / "models" / THEN,
                now=bundle,
                rows=lambda: ranking_rows(task, config.ranker.max_rows),
                config=config,
                folder=work,
                progress=progress,
            )
            scorers[f"without {part}"] = partial(_served_by, task, ablated)
    return scorers


def recipe(seed: int, *, quick: bool) -> HeadraceConfig:
    """Return the settings: the defaults, but an encoder as it is, for there are no queries, and every day's trend."""
    defaults = HeadraceConfig()
    steps = {"tower_steps": _QUICK_STEPS, "validate_every": _QUICK_STEPS} if quick else {}
    training = defaults.training.model_copy(update={"seed": seed, "encoder_steps": 0, **steps})
    ranker = defaults.ranker.model_copy(update={"trend_days": None, **({"epochs": 1, "min_steps": 0} if quick else {})})
    return defaults.model_copy(update={"training": training, "ranker": ranker})


def _make_bundle(
    task: RecommendTask, catalog: Catalog, folder: Path, config: HeadraceConfig, work: Path, progress: Progress
) -> None:
    cache = work.parent / "text_vectors"
    trained = _train(task, catalog, config, cache, work, progress)
    exported = export_models(trained, work / "models", config=config, cache_dir=cache, progress=progress)
    then, now = (
        Knowledge(
            build_behavior_tables(task_events(task, known), task.item_ids, config.ranker, progress),
            latest_popularity(known),
        )
        for known in (task.known_before_validation, task.known_before_test)
    )
    package_bundle(
        folder,
        trained,
        exported,
        build_text_tables(catalog.texts, config.ranker, progress),
        then=then,
        now=now,
        rows=ranking_rows(task, config.ranker.max_rows),
        labels=Labels(created_at=moment_of(int(task.known_before_test.times.max()))),
        config=config,
        progress=progress,
    )


def _train(
    task: RecommendTask, catalog: Catalog, config: HeadraceConfig, cache: Path, work: Path, progress: Progress
) -> TrainedParts:
    training = config.training
    encoder, tokenizer = load_encoder(training.encoder)
    preprocessing = Preprocessing(max_tokens=training.max_tokens)
    encode = partial(encode_texts, encoder, tokenizer, max_tokens=training.max_tokens, progress=progress)
    vectors = EmbeddingCache(cache).encode(
        catalog.texts, f"{encoder_fingerprint(encoder)}-float32-{training.max_tokens}", encoder.dim, encode
    )
    towers = new_towers(catalog, encoder.dim, training, preprocessing)
    device = training_device()
    towers.to(device)
    tune_towers(
        towers,
        item_inputs(catalog, torch.from_numpy(vectors), training.gate_half_count).to(device),
        catalog.event_counts,
        training_rows(task, task.known_before_validation, config.training_set.max_train_rows),
        asked_rows(task, task.validation),
        QueryPairs(vectors, np.arange(len(catalog))),  # an item's own text is the only query there is
        popularity=catalog.popularity,
        config=training,
        preprocessing=preprocessing,
        checkpoint=work / "towers.pt",
        progress=progress,
    )
    save_tokenizer(tokenizer, work / "tokenizer", training.max_tokens)
    return TrainedParts(
        encoder=encoder,
        encoder_name=training.encoder,
        tokenizer=tokenizer,
        tokenizer_file=work / "tokenizer" / "tokenizer.json",
        towers=towers.cpu(),
        catalog=catalog,
        items=task_items(task),
        preprocessing=preprocessing,
    )


def _served_by(task: RecommendTask, ablation: Ablation, rows: TaskRows) -> np.ndarray:
    return _served(task, ablation.bundle(), rows)


def _served(task: RecommendTask, bundle: Bundle, rows: TaskRows) -> np.ndarray:
    return served_scores(bundle, known_users(task, rows), rows.as_of_s)


def _dense(task: RecommendTask, bundle: Bundle, rows: TaskRows) -> np.ndarray:
    vectors, _ = bundle.user_embeddings(known_users(task, rows), rows.as_of_s)
    return dense_scores(vectors, bundle.item_vectors)
