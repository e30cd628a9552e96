"""From a trained model to the folder that would be served: export, quantize, embed the catalogue, learn the ranking."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from pipelines.compression.half_precision import export_half
from pipelines.compression.onnx_export import export_encoder, export_item_tower
from pipelines.compression.quantization import quantize_int8
from pipelines.compression.user_tower_graph import export_user_tower
from pipelines.config import HeadraceConfig
from pipelines.errors import DataError
from pipelines.inference.bundle import load_bundle
from pipelines.inference.bundle_writing import BundleParts, write_bundle
from pipelines.inference.manifest import HALF_ENCODER, Manifest
from pipelines.inference.new_items import item_tower_fields
from pipelines.inference.preprocessing import Preprocessing
from pipelines.inference.sessions import open_session
from pipelines.inference.text_encoder import TextEncoder
from pipelines.model.encoder import EmbeddingCache, SentenceEncoder, encode_texts, encoder_fingerprint
from pipelines.model.towers import Towers
from pipelines.progress import Progress
from pipelines.retrieval.neighbors import NeighborTable
from pipelines.training.catalog import Catalog
from pipelines.training.generators import Generators
from pipelines.training.judged_queries import JudgedQueries
from pipelines.training.learned_ranking import RankingRows, learn_ranking
from pipelines.training.search_ranking import learn_search_ranking
from pipelines.training.tower_tuning import item_vectors
from pipelines.training.trained_model import item_inputs

THEN = "then"
"""Folder of the bundle that the ranking is learned with, beside the exported models."""
_CHECKED_TEXTS = 500


@dataclass(frozen=True)
class TrainedParts:
    """What training gave, over one catalogue."""

    encoder: SentenceEncoder
    encoder_name: str
    """Name of the pre-trained encoder it came from."""
    tokenizer: PreTrainedTokenizerBase
    tokenizer_file: Path
    towers: Towers
    catalog: Catalog
    items: pa.Table
    """What answers show, in the order of the catalogue."""
    preprocessing: Preprocessing


@dataclass(frozen=True)
class ExportedModels:
    """The models as files in one folder, and the catalogue as vectors."""

    folder: Path
    text_vectors: np.ndarray
    """float32 `(n_items, dim)` by the float32 encoder, each row L2 norm 1."""
    item_vectors: np.ndarray
    """float32 `(n_items, dim)`, each row L2 norm 1."""
    metrics: Mapping[str, float]
    query_tower: Path | None = None
    """Folder of a smaller tower that reads queries; None: the int8 encoder does."""
    item_text_tower: Path | None = None
    """Folder of a smaller tower that is the first to read items which arrive; None: the int8 encoder is."""


@dataclass(frozen=True)
class Knowledge:
    """What behavior had shown by one moment."""

    generators: Generators
    popularity: np.ndarray
    """float32 `(n_items,)`."""


@dataclass(frozen=True)
class Labels:
    """Names and origins that go into a bundle's manifest, and files that it carries along."""

    created_at: datetime
    parent: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    more_files: Mapping[str, Path] = field(default_factory=dict)
    items_cursor: Mapping[str, Any] | None = None
    """Place in the item log up to which the tables knew it when the catalogue was read."""


def export_models(
    trained: TrainedParts, work: Path, *, config: HeadraceConfig, cache_dir: Path, progress: Progress
) -> ExportedModels:
    """Write the ONNX files into `work` and embed the catalogue with the float32 encoder.

    Training has left those vectors in the cache, and items in float32 keep more of a search than items in int8; what
    reads queries, and items that arrive later, is int8.

    Raises:
        DataError: int8 changed the text embeddings more than `compression.min_cosine` allows.
    """
    encoder, catalog = trained.encoder, trained.catalog
    work.mkdir(parents=True, exist_ok=True)
    progress.update("models exported", 0, 2)
    export_encoder(encoder, work / "float.onnx")
    quantize_int8(work / "float.onnx", work / "encoder.onnx")
    if config.compression.half_encoder:
        export_half(work / "float.onnx", work / HALF_ENCODER)
    export_user_tower(trained.towers.user, work / "user_tower.onnx")
    export_item_tower(trained.towers.item, work / "item_tower.onnx", dim=encoder.dim)
    fields = item_tower_fields(
        catalog.category_names,
        catalog.brand_names,
        trained.items["price"].to_numpy(),
        image_encoder=catalog.images.encoder if catalog.images else "",
        image_dim=catalog.images.dim if catalog.images else 0,
    )
    # What is not there is not written, so that a service of an earlier version reads it too.
    (work / "item_tower.json").write_text(fields.model_dump_json(exclude_defaults=True), encoding="utf-8")
    progress.update("models exported", 2, 2)
    max_tokens = trained.preprocessing.max_tokens
    int8 = TextEncoder(open_session(work / "encoder.onnx", "cpu"), trained.tokenizer_file, max_tokens)
    metrics = _check_int8(trained, int8, config.compression.min_cosine, progress)
    cache_id = f"{encoder_fingerprint(encoder)}-float32-{max_tokens}"
    text_vectors = EmbeddingCache(cache_dir).encode(
        catalog.texts,
        cache_id,
        encoder.dim,
        lambda texts: encode_texts(encoder, trained.tokenizer, texts, max_tokens=max_tokens, progress=progress),
    )
    inputs = item_inputs(catalog, torch.from_numpy(text_vectors), config.training.gate_half_count)
    return ExportedModels(work, text_vectors, item_vectors(trained.towers, inputs).numpy(), metrics)


def package_bundle(
    folder: Path,
    trained: TrainedParts,
    exported: ExportedModels,
    text_tables: Mapping[str, NeighborTable],
    *,
    then: Knowledge,
    now: Knowledge,
    rows: RankingRows,
    judged: JudgedQueries | None = None,
    labels: Labels,
    config: HeadraceConfig,
    progress: Progress,
) -> Manifest:
    """Learn the rankings with what was known then, and write the bundle with what is known now.

    Args:
        then: As of the first moment of `rows`; a table that knew what was taken later would teach the ranker to
            believe it.
        now: What the bundle serves with.
        rows: Moments, and what was taken then.
        judged: Queries that the encoder was not tuned on, for the ranking of searches.
    """
    before = exported.folder / THEN
    write_bundle(before, parts=_parts(trained, exported, text_tables, then, labels), created_at=labels.created_at)
    bundle = load_bundle(before, verify=False)
    seed = config.training.seed
    learned = learn_ranking(
        bundle,
        rows,
        config=config.ranker,
        seed=seed,
        target=exported.folder / "ranker.onnx",
        progress=progress,
    )
    search = learn_search_ranking(
        bundle,
        judged or JudgedQueries([], [], []),
        config=config.search_ranker,
        seed=seed,
        target=exported.folder / "search_ranker.onnx",
        progress=progress,
    )
    preprocessing = trained.preprocessing.model_copy(
        update={
            "fusion": learned.fusion.model_copy(update={"search": search.fusion}),
            "ranker": learned.ranker,
            "search_ranker": search.ranker,
        }
    )
    metrics = {**labels.metrics, **exported.metrics, **learned.metrics, **search.metrics}
    parts = _parts(trained, exported, text_tables, now, labels, preprocessing, metrics)
    parts = replace(parts, ranker=learned.file, search_ranker=search.file)
    return write_bundle(
        folder,
        parts=parts,
        created_at=labels.created_at,
        parent=labels.parent,
        items_cursor=labels.items_cursor,
    )


def _parts(
    trained: TrainedParts,
    exported: ExportedModels,
    text_tables: Mapping[str, NeighborTable],
    known: Knowledge,
    labels: Labels,
    preprocessing: Preprocessing | None = None,
    metrics: Mapping[str, float] | None = None,
) -> BundleParts:
    names = ("item_tower.onnx", "item_tower.json")
    return BundleParts(
        encoder=exported.folder / "encoder.onnx",
        encoder_name=trained.encoder_name,
        tokenizer=trained.tokenizer_file,
        user_tower=exported.folder / "user_tower.onnx",
        item_vectors=exported.item_vectors,
        items=trained.items,
        neighbors={**text_tables, **known.generators.neighbors},
        popularity=known.popularity,
        trends=known.generators.trends,
        preprocessing=preprocessing or trained.preprocessing,
        metrics=metrics or {},
        more_files={**{name: exported.folder / name for name in names}, **labels.more_files},
        query_tower=exported.query_tower,
        item_text_tower=exported.item_text_tower,
        half_encoder=half if (half := exported.folder / HALF_ENCODER).is_file() else None,
    )


def _check_int8(trained: TrainedParts, int8: TextEncoder, min_cosine: float, progress: Progress) -> dict[str, float]:
    distinct = sorted(set(trained.catalog.texts))
    sample = distinct[:: max(1, len(distinct) // _CHECKED_TEXTS)]
    max_tokens = trained.preprocessing.max_tokens
    exact = encode_texts(trained.encoder, trained.tokenizer, sample, max_tokens=max_tokens, progress=progress)
    cosines = (exact * int8.encode(sample)).sum(1)
    if float(cosines.mean()) < min_cosine:
        raise DataError(
            f"int8 text embeddings have a mean cosine of {cosines.mean():.4f} to the float ones, at least "
            f"{min_cosine} is wanted: raise `training.frozen_layers`, lower "
            "`training.encoder_learning_rate`, or lower `compression.min_cosine` if the loss is acceptable."
        )
    return {"int8_cosine_mean": float(cosines.mean()), "int8_cosine_min": float(cosines.min())}
