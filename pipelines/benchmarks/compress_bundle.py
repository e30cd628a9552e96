"""How large a bundle with 100,000 items is: real models, and a catalogue whose tables are as dense as a shop's.

Sizes do not depend on what vectors and links say, so those are drawn; titles are made of a shop's words, and every item
has as many links, words and days with events as the default settings allow or a grocer's items have.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch

from pipelines.compression.onnx_export import export_encoder, export_item_tower
from pipelines.compression.quantization import quantize_int8
from pipelines.compression.user_tower_graph import export_user_tower
from pipelines.config import HeadraceConfig
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.inference.bundle import ITEM_COLUMNS, ITEM_TO_ITEM
from pipelines.inference.bundle_writing import BundleParts, write_bundle
from pipelines.inference.manifest import Manifest
from pipelines.inference.new_items import item_tower_fields
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.encoder import SentenceEncoder
from pipelines.model.towers import Towers
from pipelines.retrieval.neighbors import NeighborTable, best_of_links
from pipelines.retrieval.trends import build_trends
from pipelines.training.generators import LEXICAL, SUCCESSORS

N_ITEMS = 100_000
_LINKS = {ITEM_TO_ITEM: 35, SUCCESSORS: 18, LEXICAL: 50}
"""Links of an item in each table: what the default data has with 50 at most."""
_CATEGORIES, _BRANDS = 300, 2_000
_EVENTS_PER_ITEM = 6
_DAYS = 120


def bundle_mib(
    encoder: SentenceEncoder,
    tokenizer_file: Path,
    titles: Sequence[str],
    *,
    query_tower: Path | None = None,
    item_text_tower: Path | None = None,
    n_items: int = N_ITEMS,
    seed: int = 0,
) -> float:
    """Write a bundle of `n_items` and return its size.

    Args:
        titles: Titles of a real catalogue, repeated in another order of words where there are fewer.
        query_tower: Folder of a smaller tower that the bundle has beside the encoder.
        item_text_tower: The same for items that arrive.
    """
    with TemporaryDirectory(prefix="headrace-") as scratch:
        folder = Path(scratch)
        towers = query_tower, item_text_tower
        return _write(folder, encoder, tokenizer_file, titles, towers, n_items, seed).size_mib


def _write(
    folder: Path,
    encoder: SentenceEncoder,
    tokenizer_file: Path,
    titles: Sequence[str],
    towers: tuple[Path | None, Path | None],
    n_items: int,
    seed: int,
) -> Manifest:
    rng = np.random.default_rng(seed)
    config = HeadraceConfig()
    export_encoder(encoder, folder / "float.onnx")
    quantize_int8(folder / "float.onnx", folder / "encoder.onnx")
    fields = _export_towers(folder, encoder.dim, n_items, config)
    items = _items(_titles(titles, n_items, rng), rng)
    vectors = rng.standard_normal((n_items, encoder.dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    events = rng.integers(0, n_items, n_items * _EVENTS_PER_ITEM)
    parts = BundleParts(
        encoder=folder / "encoder.onnx",
        encoder_name=config.training.encoder,
        tokenizer=tokenizer_file,
        user_tower=folder / "user_tower.onnx",
        item_vectors=vectors,
        items=items,
        neighbors={name: _links(n_items, links, rng) for name, links in _LINKS.items()},
        popularity=rng.gamma(0.5, 10, n_items).astype(np.float32),
        trends=build_trends(events, rng.integers(0, _DAYS, len(events)) * 86_400, n_items),
        preprocessing=Preprocessing(activity_features=ACTIVITY_FEATURES, max_tokens=config.training.max_tokens),
        more_files={name: folder / name for name in fields},
        query_tower=towers[0],
        item_text_tower=towers[1],
    )
    return write_bundle(folder / "bundle", parts=parts, created_at=datetime(2026, 1, 1, tzinfo=UTC))


def _export_towers(folder: Path, dim: int, n_items: int, config: HeadraceConfig) -> tuple[str, str]:
    """Write both towers and the names behind the item tower's numbers; return the files of the item tower."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(activity_features=ACTIVITY_FEATURES)
    towers = Towers(
        dim=dim,
        n_items=n_items,
        n_categories=_CATEGORIES,
        n_brands=_BRANDS,
        behavior_dim=config.training.behavior_dim,
        n_event_types=len(preprocessing.event_types),
        n_gap_buckets=preprocessing.n_gap_buckets,
        n_activity=len(ACTIVITY_FEATURES),
    )
    export_user_tower(towers.user, folder / "user_tower.onnx")
    export_item_tower(towers.item, folder / "item_tower.onnx", dim=dim)
    categories, brands = (
        [f"{kind} {number}" for number in range(n)] for kind, n in (("category", _CATEGORIES), ("brand", _BRANDS))
    )
    fields = item_tower_fields(categories, brands, np.array([1.0, 2.0]))
    (folder / "item_tower.json").write_text(fields.model_dump_json(), encoding="utf-8")
    return "item_tower.onnx", "item_tower.json"


def _titles(titles: Sequence[str], n_items: int, rng: np.random.Generator) -> list[str]:
    """Return as many titles: those there are, then the same words in another order."""
    out = list(titles[:n_items])
    while len(out) < n_items:
        out.append(" ".join(rng.permutation(titles[len(out) % len(titles)].split())))
    return out


def _items(titles: Sequence[str], rng: np.random.Generator) -> pa.Table:
    n = len(titles)
    return pa.table(
        {
            "item_id": [str(number) for number in rng.permutation(n) + 10_000_000],
            "title": list(titles),
            "category": [f"category {number}" for number in rng.integers(0, _CATEGORIES, n)],
            "brand": [f"brand {number}" for number in rng.integers(0, _BRANDS, n)],
            "price": np.round(rng.gamma(2, 3, n), 2),
            "currency": ["USD"] * n,
            "available": np.ones(n, bool),
        },
        schema=ITEM_COLUMNS,
    )


def _links(n_items: int, most: int, rng: np.random.Generator) -> NeighborTable:
    rows = np.repeat(np.arange(n_items), most)
    scores = rng.lognormal(0, 1.5, len(rows)).astype(np.float32)
    return best_of_links(rows, rng.integers(0, n_items, len(rows)), scores, n_items, most)
