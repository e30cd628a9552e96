"""Step: make the challenger, the folder that would be served, from the trained model."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa
import torch

from pipelines.compression.onnx_export import export_encoder, export_item_tower, export_user_tower
from pipelines.compression.quantization import quantize_int8
from pipelines.config import HeadraceConfig
from pipelines.errors import DataError
from pipelines.evaluation.rows import read_rows
from pipelines.features.history import IS_REMEMBERED_SQL
from pipelines.inference.bundle import Bundle, BundleParts, load_bundle, read_manifest, write_bundle
from pipelines.inference.new_items import item_tower_fields
from pipelines.inference.preprocessing import Fusion
from pipelines.inference.sessions import open_session
from pipelines.inference.text_encoder import TextEncoder
from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint
from pipelines.progress import Progress
from pipelines.ranking.fusion import fit_fusion_weights
from pipelines.retrieval.cooccurrence import build_item_to_item
from pipelines.schemas import CompressedBundle, TrainedModel, TrainingSet
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.table_store import TableStore
from pipelines.training.catalog import Catalog, item_popularity, load_catalog
from pipelines.training.receipt import RECEIPT, find_receipt
from pipelines.training.tower_tuning import item_vectors
from pipelines.training.trained_model import TrainedFolder, item_inputs, load_trained_model

STEP = "compress_model"
_CHECKED_TEXTS = 500
_ENCODE_BATCH = 1_024


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

    The bundle has the id of the run, so running it again replaces nothing and registers nothing twice. Nothing in
    the bundle has seen the test window. The validation window decides the fusion weights, and counts in the
    popularity that is served; the weights are fitted with the popularity from before it.

    Args:
        now: Written into the manifest.

    Raises:
        DataError: int8 changed the text embeddings more than `min_cosine` allows.
    """
    folder = bundles_dir / training_set.run
    with tracker.step(training_set.run, STEP) as log:
        log.params(config.compression.model_dump())
        if not (folder / "manifest.json").is_file():
            _write(training_set, trained, folder, tables, config, cache_dir, progress, now)
        manifest = read_manifest(folder)
        metrics = dict(load_bundle(folder, verify=False).metrics)
        log.metrics({**metrics, "size_mib": manifest.size_mib})
        version = registry.register(training_set.run, training_set.run, folder)
        registry.set_challenger(version)
        log.tags({"bundle": training_set.run, "version": version})
    return CompressedBundle(
        run=training_set.run,
        bundle=training_set.run,
        folder=folder,
        version=version,
        size_mib=manifest.size_mib,
        cosine_to_float=metrics["int8_cosine_mean"],
        metrics=metrics,
    )


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
    source = TrainedFolder(trained.folder)
    cut = training_set.validation_start
    with tables.connect() as connection:
        catalog = load_catalog(connection, cut, config.features.popularity_half_life_days)
        progress.update("item-to-item table", 0, 1)
        neighbors = build_item_to_item(
            _events(connection, cut, config.compression.window_days),
            catalog.item_ids,
            neighbors=config.compression.neighbors,
        )
        progress.update("item-to-item table", 1, 1)
        latest_popularity = item_popularity(
            connection,
            training_set.test_start,
            catalog.item_ids,
            config.features.popularity_half_life_days,
        )
        items = connection.sql("SELECT * EXCLUDE (attributes) FROM items ORDER BY item_id").to_arrow_table()
    receipt = find_receipt(source.folder)
    encoder, tokenizer, towers = load_trained_model(source, catalog, config.training)
    with TemporaryDirectory(prefix="headrace-") as scratch:
        work = Path(scratch)
        progress.update("models exported", 0, 2)
        export_encoder(encoder, work / "float.onnx")
        quantize_int8(work / "float.onnx", work / "encoder.onnx")
        export_user_tower(
            towers.user,
            work / "user_tower.onnx",
            dim=encoder.dim,
            n_activity=len(source.preprocessing().activity_features),
        )
        export_item_tower(towers.item, work / "item_tower.onnx", dim=encoder.dim)
        fields = item_tower_fields(catalog.category_names, catalog.brand_names, items["price"].to_numpy())
        (work / "item_tower.json").write_text(fields.model_dump_json(), encoding="utf-8")
        progress.update("models exported", 2, 2)
        int8 = TextEncoder(
            open_session(work / "encoder.onnx", "cpu"), source.encoder / "tokenizer.json", config.training.max_tokens
        )

        def encode(texts: Sequence[str]) -> np.ndarray:
            parts = []
            for start in range(0, len(texts), _ENCODE_BATCH):
                parts.append(int8.encode(texts[start : start + _ENCODE_BATCH]))
                progress.update("item texts encoded in int8", min(start + _ENCODE_BATCH, len(texts)), len(texts))
            return np.concatenate(parts)

        sample = sorted(set(catalog.texts))[:: max(1, len(set(catalog.texts)) // _CHECKED_TEXTS)]
        exact = encode_texts(encoder, tokenizer, sample, max_tokens=config.training.max_tokens, progress=progress)
        cosines = (exact * int8.encode(sample)).sum(1)
        if float(cosines.mean()) < config.compression.min_cosine:
            raise DataError(
                f"int8 text embeddings have a mean cosine of {cosines.mean():.4f} to the float ones, at least "
                f"{config.compression.min_cosine} is wanted: raise `training.frozen_layers`, lower "
                "`training.encoder_learning_rate`, or lower `compression.min_cosine` if the loss is acceptable."
            )
        cache_id = f"{encoder_fingerprint(encoder)}-int8-{config.training.max_tokens}"
        text_vectors = EmbeddingCache(cache_dir).encode(catalog.texts, cache_id, encoder.dim, encode)
        vectors = item_vectors(
            towers, item_inputs(catalog, torch.from_numpy(text_vectors), config.training.gate_half_count)
        ).numpy()
        write_bundle(
            folder,
            parts=BundleParts(
                encoder=work / "encoder.onnx",
                encoder_name=config.training.encoder,
                tokenizer=source.encoder / "tokenizer.json",
                user_tower=work / "user_tower.onnx",
                item_vectors=vectors,
                items=items,
                item_to_item_ids=neighbors[0],
                item_to_item_scores=neighbors[1],
                popularity=latest_popularity,
                preprocessing=source.preprocessing(),
                metrics={
                    "int8_cosine_mean": float(cosines.mean()),
                    "int8_cosine_min": float(cosines.min()),
                    **(receipt.flat_metrics() if receipt else {}),
                },
                more_files={
                    **{name: work / name for name in ("item_tower.onnx", "item_tower.json")},
                    **({RECEIPT: source.receipt} if receipt else {}),
                },
            ),
            created_at=now,
            parent=training_set.champion,
            fit_fusion=lambda bundle: _fit_fusion(bundle, training_set, catalog),
        )


def _fit_fusion(bundle: Bundle, training_set: TrainingSet, catalog: Catalog) -> tuple[Fusion, dict[str, float]]:
    rows = read_rows(training_set.folder, "validation", catalog.item_ids)
    as_it_was = bundle.with_popularity(catalog.popularity)  # the bundle's own popularity has seen the validation week

    def ids(numbers: np.ndarray) -> list[str]:
        return [catalog.item_ids[number] for number in numbers if number >= 0]

    return fit_fusion_weights(
        as_it_was,
        rows.features,
        rows.now_s,
        [ids(part) for part in rows.new_targets],
        [ids(part) for part in rows.seen],
    )


def _events(connection: duckdb.DuckDBPyConnection, until: datetime, window_days: int) -> pa.Table:
    return connection.sql(
        f"""
        SELECT user_id, session_id, item_id, event_type, event_timestamp FROM events
        WHERE {IS_REMEMBERED_SQL} AND event_timestamp >= $since
          AND event_timestamp < $until AND created_timestamp <= $until
        """,
        params={"since": until - timedelta(days=window_days), "until": until},
    ).to_arrow_table()
