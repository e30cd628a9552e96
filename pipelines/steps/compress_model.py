"""Step: make the challenger, the folder that would be served, from the trained model."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.compression.chosen_tower import choose_tower, item_text_tower, item_tower_metrics, study_of
from pipelines.compression.packaging import (
    ExportedModels,
    Knowledge,
    Labels,
    TrainedParts,
    export_models,
    package_bundle,
)
from pipelines.compression.study import Study
from pipelines.compression.text_towers import TowerKind, towers_folder
from pipelines.config import CompressionConfig, HeadraceConfig
from pipelines.evaluation.rows import read_rows
from pipelines.experiments.model_card import model_card
from pipelines.features.history import IS_REMEMBERED_SQL
from pipelines.inference.bundle import load_bundle
from pipelines.inference.manifest import read_manifest
from pipelines.progress import Progress
from pipelines.schemas import ITEM_LOG, CompressedBundle, TrainedModel, TrainingSet
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.table_store import TableStore
from pipelines.training.catalog import Catalog, item_popularity, load_catalog
from pipelines.training.generators import build_behavior_tables, build_text_tables
from pipelines.training.item_images import item_images
from pipelines.training.judged_queries import JudgedQueries, judged_queries
from pipelines.training.learned_ranking import RankingRows
from pipelines.training.receipt import RECEIPT, find_receipt
from pipelines.training.search_pairs import logged_pairs
from pipelines.training.trained_model import TrainedFolder, load_trained_model

STEP = "compress_model"


def compress_model(
    training_set: TrainingSet,
    trained: TrainedModel,
    *,
    tables: TableStore,
    bundles_dir: Path,
    registry: ModelRegistry,
    tracker: ExperimentTracker,
    config: HeadraceConfig,
    cache_dir: Path,
    progress: Progress,
    now: datetime,
) -> CompressedBundle:
    """Export to ONNX, quantize to int8, embed the catalogue, write the bundle and register it as the challenger.

    What reads queries is `compression.query_tower`: the int8 encoder, a smaller tower, or what the policy picks. What
    is the first to read items that arrive is `compression.item_text_tower`.

    The bundle has the id of the run, so running it again replaces nothing and registers nothing twice. Nothing in
    the bundle has seen the test window. The ranking is learned on the validation window, with tables and popularity
    from before it; what is served with counts the validation window too.

    Args:
        now: Written into the manifest.

    Raises:
        DataError: int8 changed the text embeddings more than `min_cosine` allows.
    """
    folder = bundles_dir / training_set.run
    with tracker.step(training_set.run, STEP) as log:
        log.params(_params(config.compression))
        if not (folder / "manifest.json").is_file():
            _write(training_set, trained, folder, tables, config, cache_dir, progress, now)
        manifest = read_manifest(folder)
        metrics = dict(load_bundle(folder, verify=False).metrics)
        log.metrics({**metrics, "size_mib": manifest.size_mib})
        version = registry.register(training_set.run, training_set.run, folder)
        registry.set_challenger(version)
        if registry.report(version) is None:
            registry.describe(version, model_card(manifest, find_receipt(folder)))
        log.tags({"bundle": training_set.run, "version": version})
        tracker.parent(training_set.run).facts(_choices(config))
    return CompressedBundle(
        run=training_set.run,
        bundle=training_set.run,
        folder=folder,
        version=version,
        size_mib=manifest.size_mib,
        cosine_to_float=metrics["int8_cosine_mean"],
        metrics=metrics,
    )


def _params(config: CompressionConfig) -> dict[str, Any]:
    inner = {f"distillation.{name}": value for name, value in config.distillation.model_dump().items()}
    return {**config.model_dump(exclude={"distillation"}), **inner}


def _choices(config: HeadraceConfig) -> dict[str, Any]:
    """Return the settings by which trainings are told apart; all of them are with the steps."""
    names = ("encoder", "encoder_tuning", "encoder_steps", "tower_steps", "objective", "seed")
    training = {name: getattr(config.training, name) for name in names}
    return {**training, "history_length": config.features.history_length, "query_tower": config.compression.query_tower}


@dataclass(frozen=True)
class TrainedRun:
    """A trained model over the catalogue as it was before the validation window, and queries that people typed."""

    source: TrainedFolder
    parts: TrainedParts
    tuned_on: JudgedQueries
    """Judged queries that the encoder was tuned on."""
    held_out: JudgedQueries
    """Judged queries that it has not seen."""
    logged: list[str]
    """Queries that led to an item before the validation window."""


def read_trained_run(
    training_set: TrainingSet,
    trained: TrainedModel,
    *,
    tables: TableStore,
    config: HeadraceConfig,
    cache_dir: Path,
    progress: Progress,
) -> TrainedRun:
    """Read what training left, over the catalogue of today."""
    source = TrainedFolder(trained.folder)
    cut = training_set.validation_start
    with tables.connect() as connection:
        catalog = load_catalog(connection, cut, config.features.popularity_half_life_days)
        items = connection.sql("SELECT * EXCLUDE (attributes) FROM items ORDER BY item_id").to_arrow_table()
        tuned_on, held_out = judged_queries(connection, catalog).divided(config.training.judged_holdout_share)
        logged, _ = logged_pairs(connection, catalog, cut)
    images = item_images(config.training, cache_dir).vectors(items["image"].to_pylist(), progress)
    catalog = replace(catalog, images=images)
    encoder, tokenizer, towers = load_trained_model(source, catalog, config.training)
    parts = TrainedParts(
        encoder=encoder,
        encoder_name=config.training.encoder,
        tokenizer=tokenizer,
        tokenizer_file=source.encoder / "tokenizer.json",
        towers=towers,
        catalog=catalog,
        items=items,
        preprocessing=source.preprocessing(),
    )
    return TrainedRun(source, parts, tuned_on, held_out, logged)


def study_of_run(run: TrainedRun, exported: ExportedModels, config: HeadraceConfig, progress: Progress) -> Study:
    """Return the study of a run's small towers."""
    vectors = exported.item_vectors, exported.text_vectors
    return study_of(run.parts, *vectors, run.tuned_on, run.held_out, run.logged, config, progress)


def kept_towers(run: TrainedRun, config: HeadraceConfig, kind: TowerKind = "query_towers") -> Path:
    """Return the folder in which the small towers of a run are kept."""
    return towers_folder(run.source.folder.parent, config.compression.distillation, config.training.seed, kind)


def _write(
    training_set: TrainingSet,
    trained: TrainedModel,
    folder: Path,
    tables: TableStore,
    config: HeadraceConfig,
    cache_dir: Path,
    progress: Progress,
    now: datetime,
) -> None:
    # Before the catalogue: what is accepted in between is read twice, by the service once more, and not lost.
    items_cursor = tables.source_state(ITEM_LOG) or None
    run = read_trained_run(training_set, trained, tables=tables, config=config, cache_dir=cache_dir, progress=progress)
    parts, catalog = run.parts, run.parts.catalog
    receipt = find_receipt(run.source.folder)
    cut, days = training_set.validation_start, config.compression.window_days
    with tables.connect() as connection:
        half_life = config.features.popularity_half_life_days
        latest_popularity = item_popularity(connection, training_set.test_start, catalog.item_ids, half_life)
        events = {moment: _events(connection, moment, days) for moment in (cut, training_set.test_start)}
    then, now_known = (
        build_behavior_tables(known, catalog.item_ids, config.ranker, progress, neighbors=config.compression.neighbors)
        for known in events.values()
    )
    with TemporaryDirectory(prefix="headrace-") as scratch:
        exported = export_models(parts, Path(scratch), config=config, cache_dir=cache_dir, progress=progress)
        study = study_of_run(run, exported, config, progress)
        tower = choose_tower(study, kept_towers(run, config))
        reads_items = item_text_tower(study, kept_towers(run, config, "item_text_towers"))
        package_bundle(
            folder,
            parts,
            replace(
                exported,
                query_tower=tower.folder,
                item_text_tower=reads_items,
                metrics={**exported.metrics, **tower.metrics, **item_tower_metrics(study, reads_items)},
            ),
            build_text_tables(catalog.texts, config.ranker, progress),
            then=Knowledge(then, catalog.popularity),
            now=Knowledge(now_known, latest_popularity),
            rows=_ranking_rows(training_set.folder, catalog),
            judged=run.held_out,
            labels=Labels(
                created_at=now,
                parent=training_set.champion,
                metrics=receipt.flat_metrics() if receipt else {},
                more_files={RECEIPT: run.source.receipt} if receipt else {},
                items_cursor=items_cursor,
            ),
            config=config,
            progress=progress,
        )


def _ranking_rows(folder: Path, catalog: Catalog) -> RankingRows:
    rows = read_rows(folder, "validation", catalog.item_ids)
    return RankingRows(
        features=rows.features,
        now_s=rows.now_s,
        users=rows.user_ids,
        targets=rows.targets,
        new_targets=rows.new_targets,
        seen=rows.seen,
        clicked=rows.clicked,
    )


def _events(connection: duckdb.DuckDBPyConnection, until: datetime, window_days: int) -> pa.Table:
    return connection.sql(
        f"""
        SELECT user_id, session_id, item_id, event_type, event_timestamp FROM events
        WHERE {IS_REMEMBERED_SQL} AND event_timestamp >= $since
          AND event_timestamp < $until AND created_timestamp <= $until
        ORDER BY event_timestamp, event_id
        """,
        params={"since": until - timedelta(days=window_days), "until": until},
    ).to_arrow_table()
