"""Writing a bundle: whole or not at all, and opened once before anybody can use it."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import DataError
from pipelines.inference.bundle import ITEM_COLUMNS, NORM_TOLERANCE, open_folder
from pipelines.inference.manifest import (
    FORMAT,
    HALF_ENCODER,
    ITEM_TEXT_TOWER,
    MANIFEST,
    QUERY_TOWER,
    Manifest,
    file_entries,
)
from pipelines.inference.preprocessing import Preprocessing
from pipelines.inference.text_encoder import TOWER_FILES
from pipelines.retrieval.dense import ItemVectors
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.retrieval.neighbors import NeighborTable, save_tables
from pipelines.retrieval.trends import ItemTrends, no_trends
from pipelines.stores.files import replacing_folder


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is made of."""

    encoder: Path
    """ONNX file of the encoder."""
    encoder_name: str
    """Name of the pre-trained encoder it came from."""
    tokenizer: Path
    """`tokenizer.json` of the encoder."""
    user_tower: Path
    """ONNX file of the user tower."""
    item_vectors: np.ndarray
    """float `(n_items, dim)`, each row L2 norm 1."""
    items: pa.Table
    """The columns of `ITEM_COLUMNS` (others are ignored), in the order of the vectors."""
    neighbors: Mapping[str, NeighborTable]
    """Item-to-item tables by generator; `item_to_item` must be there."""
    popularity: np.ndarray
    """float32 `(n_items,)`, at least 0."""
    preprocessing: Preprocessing
    trends: ItemTrends | None = None
    """Popularity by day; None: nothing is known."""
    ranker: Path | None = None
    """ONNX file of the ranker that `preprocessing.ranker` describes."""
    search_ranker: Path | None = None
    """ONNX file of the ranker that `preprocessing.search_ranker` describes."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    half_encoder: Path | None = None
    """ONNX file of the encoder in float16."""
    query_tower: Path | None = None
    """Folder of what reads queries, with the `TOWER_FILES` that it has; None: the encoder."""
    item_text_tower: Path | None = None
    """Folder of what reads items that arrive before the encoder does; None: nothing."""
    texts: Sequence[str] | None = None
    """Texts that lexical search looks into, in the order of the vectors; None: title, category and brand."""
    more_files: Mapping[str, Path] = field(default_factory=dict)
    """Further files of the bundle, by name."""


def write_bundle(
    folder: Path,
    *,
    parts: BundleParts,
    created_at: datetime,
    parent: str | None = None,
    items_cursor: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the bundle to `folder`, whose name is the bundle id; whole or not at all.

    Args:
        items_cursor: Place in the item log up to which the catalogue knows it.

    Raises:
        DataError: the parts do not fit together.
        BundleError: a model does not load or gives vectors that are not of unit length.
    """
    items = _item_table(parts)
    with replacing_folder(folder) as target:
        shutil.copyfile(parts.encoder, target / "encoder.onnx")
        shutil.copyfile(parts.tokenizer, target / "tokenizer.json")
        shutil.copyfile(parts.user_tower, target / "user_tower.onnx")
        for name, file in parts.more_files.items():
            shutil.copyfile(file, target / name)
        if parts.half_encoder is not None:
            shutil.copyfile(parts.half_encoder, target / HALF_ENCODER)
        for name, tower in ((QUERY_TOWER, parts.query_tower), (ITEM_TEXT_TOWER, parts.item_text_tower)):
            if tower is not None:
                _copy_tower(tower, target / name)
        ItemVectors.quantized(parts.item_vectors).save(target)
        pq.write_table(items, target / "items.parquet")
        save_tables(target / "neighbors", parts.neighbors)
        (parts.trends or no_trends(len(parts.item_vectors))).save(target / "trends")
        for name, ranker in (("ranker.onnx", parts.ranker), ("search_ranker.onnx", parts.search_ranker)):
            if ranker is not None:
                shutil.copyfile(ranker, target / name)
        _save(target / "popularity.npy", parts.popularity.astype(np.float32))
        LexicalIndex.build(parts.texts if parts.texts is not None else default_texts(items)).save(target / "lexical")
        _write_json(target / "preprocessing.json", parts.preprocessing.model_dump(mode="json"))
        _write_json(target / "metrics.json", dict(parts.metrics))
        manifest = Manifest(
            format=FORMAT,
            bundle_id=folder.name,
            created_at=created_at,
            parent=parent,
            dim=parts.item_vectors.shape[1],
            n_items=parts.item_vectors.shape[0],
            encoder=parts.encoder_name,
            files=file_entries(target),
            items_cursor=dict(items_cursor) if items_cursor else None,
        )
        open_folder(target, manifest, "auto")
        # What is not there is not written, so that a service of an earlier version reads it too.
        left_out = set() if items_cursor else {"items_cursor"}
        _write_json(target / MANIFEST, manifest.model_dump(mode="json", exclude=left_out))
    return manifest


def _copy_tower(source: Path, target: Path) -> None:
    target.mkdir()
    for name in TOWER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def default_texts(items: pa.Table) -> list[str]:
    """Return the text of each item for lexical search: title, category and brand."""
    return [default_text(item) for item in items.select(["title", "category", "brand"]).to_pylist()]


def default_text(item: Mapping[str, Any]) -> str:
    """Return the text of one item for lexical search: title, category and brand."""
    parts = (item.get(name) for name in ("title", "category", "brand"))
    return " ".join(part for part in parts if part)


def _item_table(parts: BundleParts) -> pa.Table:
    n, dim = parts.item_vectors.shape
    norms = np.linalg.norm(parts.item_vectors.astype(np.float32), axis=1)
    lengths = {
        "items": parts.items.num_rows,
        **{f"neighbors/{name}": len(table) for name, table in parts.neighbors.items()},
        "popularity": len(parts.popularity),
        "texts": n if parts.texts is None else len(parts.texts),
    }
    if n == 0 or set(lengths.values()) != {n}:
        raise DataError(f"A bundle needs the same items everywhere: item_vectors has {n} rows, others {lengths}.")
    if not (np.abs(norms - 1) <= NORM_TOLERANCE).all():
        bad = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
        raise DataError(
            f"{len(bad)} of {n} item vectors (dim {dim}) are not of length 1, first at rows "
            f"{', '.join(map(str, bad[:3]))}: normalise them before writing the bundle."
        )
    return parts.items.select(ITEM_COLUMNS.names).cast(ITEM_COLUMNS)


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, np.ascontiguousarray(array), allow_pickle=False)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")
