"""Items that arrived since a bundle was made: embedded from what they are, and shown beside the others.

The encoder reads their text and the item tower adds category, brand and price, with its gate for behaviour at 0. NumPy
and ONNX Runtime only.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import BundleError, DataError
from pipelines.inference.preprocessing import Frozen
from pipelines.inference.sessions import Device, open_session
from pipelines.retrieval.dense import DenseIndex, dense_scores
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.retrieval.vector_index import GrownVectorIndex

if TYPE_CHECKING:
    from pipelines.inference.bundle import Bundle

ITEM_TOWER, FIELDS = "item_tower.onnx", "item_tower.json"
_NORM_TOLERANCE = 2e-2
_BATCH = 1_024


class ItemTowerFields(Frozen):
    """What structured fields mean to the item tower."""

    categories: tuple[str, ...]
    """Names by number; number 0 is unknown."""
    brands: tuple[str, ...]
    log_price_mean: float
    log_price_deviation: float
    image_encoder: str = ""
    """Id of the encoder of pictures; "" where the tower looks at none."""
    image_dim: int = 0


@dataclass(frozen=True)
class NewItems:
    """`k` items that a bundle does not have."""

    items: pa.Table
    """The columns of `ITEM_COLUMNS`, in the order of the vectors."""
    vectors: np.ndarray
    """float32 `(k, dim)`, each row L2 norm 1."""
    lexical: LexicalIndex
    """Over the bundle's items and these, in this order."""


class ItemTower:
    """An exported item tower, for items without behaviour."""

    def __init__(self, session: Any, fields: ItemTowerFields) -> None:
        self._session = session
        self._fields = fields
        self._categories = {name: number for number, name in enumerate(fields.categories)}
        self._brands = {name: number for number, name in enumerate(fields.brands)}

    def embed(
        self,
        text_vectors: np.ndarray,
        categories: Sequence[str | None],
        brands: Sequence[str | None],
        prices: np.ndarray,
        images: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the vectors of items, float32 `(n, dim)`, each row L2 norm 1.

        Args:
            text_vectors: float32 `(n, dim)`, each row L2 norm 1.
            categories: Names; those that training never saw count as unknown.
            prices: float64 `(n,)`, NaN where there is none.
            images: float32 `(n, image_dim)` by the encoder that the tower knows, 0 where there is no picture; not read
                by a tower that looks at none.
        """
        inputs = {
            "text": text_vectors.astype(np.float32),
            "category": np.array([self._categories.get(name or "", 0) for name in categories], np.int64),
            "brand": np.array([self._brands.get(name or "", 0) for name in brands], np.int64),
            "price": scaled_log_prices(prices, self._fields.log_price_mean, self._fields.log_price_deviation),
        }
        if dim := self._fields.image_dim:
            inputs["image"] = np.zeros((len(text_vectors), dim), np.float32) if images is None else images
        vectors: np.ndarray = self._session.run(["item_vector"], inputs)[0]
        return vectors


class GrownDenseIndex(DenseIndex):
    """An opened int8 index with some vectors behind it, which are scored exactly."""

    def __init__(self, index: DenseIndex, vectors: np.ndarray) -> None:
        """Take vectors, float32 `(k, dim)`, each row L2 norm 1."""
        self._index = index
        self._vectors = vectors

    @property
    def n_items(self) -> int:
        """Number of vectors, the added ones included."""
        return self._index.n_items + len(self._vectors)

    def scores(self, vector: np.ndarray) -> np.ndarray:
        """Return cosines to every item, float32 `(n_items,)`; see `DenseIndex.scores`."""
        return np.concatenate([self._index.scores(vector), dense_scores(vector[None], self._vectors)[0]])


def log_price_scale(prices: np.ndarray) -> tuple[float, float]:
    """Return mean and deviation of the log prices; (0, 0) where fewer than two are known.

    Args:
        prices: float64 `(n,)`, NaN where there is none.
    """
    known = prices[np.isfinite(prices) & (prices > 0)]
    if len(known) < 2:
        return 0.0, 0.0
    logs = np.log(known)
    return float(logs.mean()), max(float(logs.std()), 1e-6)


def scaled_log_prices(prices: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Return (log price − mean) / deviation, float32 `(n,)`; 0 where there is no price, or no scale."""
    known = np.isfinite(prices) & (prices > 0)
    out = np.zeros(len(prices), np.float32)
    if deviation > 0:
        out[known] = (np.log(prices[known]) - mean) / deviation
    return out


def item_tower_fields(
    categories: Sequence[str],
    brands: Sequence[str],
    prices: np.ndarray,
    *,
    image_encoder: str = "",
    image_dim: int = 0,
) -> ItemTowerFields:
    """Return what the numbers of a catalogue mean.

    Args:
        categories: Names by number.
        brands: Names by number.
        prices: float64 `(n_items,)`, NaN where there is none.
    """
    mean, deviation = log_price_scale(prices.astype(np.float64))
    return ItemTowerFields(
        categories=tuple(categories),
        brands=tuple(brands),
        log_price_mean=mean,
        log_price_deviation=deviation,
        image_encoder=image_encoder,
        image_dim=image_dim,
    )


def open_item_tower(folder: Path, device: Device = "auto") -> ItemTower | None:
    """Open the item tower of a bundle; None where an older version made it.

    Raises:
        BundleError: its files are not what they should be.
    """
    fields = read_fields(folder)
    return ItemTower(open_session(folder / ITEM_TOWER, device), fields) if fields else None


def read_fields(folder: Path) -> ItemTowerFields | None:
    """Return what the item tower of a bundle reads; None where an older version made it.

    Raises:
        BundleError: the file is not what it should be.
    """
    if not (folder / ITEM_TOWER).is_file():
        return None
    try:
        return ItemTowerFields.model_validate_json((folder / FIELDS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{FIELDS} of the bundle {folder} cannot be read ({str(error).splitlines()[0]}): use another bundle."
        ) from error


def item_text(title: str, description: str | None) -> str:
    """Return what the encoder reads of an item; in the tables each has a title, validation sets others aside."""
    return ". ".join(part for part in (title, description) if part)


def embed_items(
    bundle: "Bundle", items: pa.Table, texts: Sequence[str], images: np.ndarray | None = None
) -> np.ndarray:
    """Return the vectors of items that the bundle does not have, float32 `(k, dim)`, each row L2 norm 1.

    A bundle without an item tower gives the vectors of the texts, which an untrained tower would give too.

    Args:
        items: `category`, `brand` and `price` of each item.
        texts: What the encoder reads of each item.
        images: As in `ItemTower.embed`; None where no item has a picture.

    Raises:
        BundleError: the item tower cannot be read.
    """
    tower = open_item_tower(bundle.folder)
    prices = items["price"].to_numpy().astype(np.float64)
    parts = []
    for start in range(0, len(texts), _BATCH):
        part = slice(start, start + _BATCH)
        text_vectors = bundle.encode_items(texts[part])
        if tower is not None:
            categories, brands = (items[name].to_pylist()[part] for name in ("category", "brand"))
            seen = None if images is None else images[part]
            text_vectors = tower.embed(text_vectors, categories, brands, prices[part], seen)
        parts.append(text_vectors)
    return np.concatenate(parts) if parts else np.empty((0, bundle.dim), np.float32)


def with_new_items(bundle: "Bundle", new: NewItems) -> "Bundle":
    """Return the bundle with some items more, behind its own: see `Bundle.with_new_items`.

    Raises:
        DataError: the parts do not fit together.
    """
    count = new.items.num_rows
    _check(bundle, new)
    other = copy.copy(bundle)
    for name in cached_names(type(bundle)):
        other.__dict__.pop(name, None)
    other.items = pa.concat_tables(
        [bundle.items, new.items.select(bundle.items.column_names).cast(bundle.items.schema)]
    )
    other.item_ids = other.items["item_id"].to_pylist()
    other.available = other.items["available"].to_numpy().astype(bool)
    other.prices = other.items["price"].to_numpy().astype(np.float64)
    other.item_vectors = bundle.item_vectors.grown(new.vectors)
    other.links = bundle.links.grown(count)
    other.trends = bundle.trends.grown(count)
    other.popularity = _grown(bundle.popularity, count, 0)
    other.dense_index = GrownDenseIndex(bundle.dense_index, new.vectors.astype(np.float32))
    other.vector_index = GrownVectorIndex(bundle.vector_index, bundle.n_items, other.item_vectors)
    other.lexical = new.lexical
    other._rows = {item_id: row for row, item_id in enumerate(other.item_ids)}
    other._user_tower = bundle._user_tower.over(other.item_vectors)
    return other


def _check(bundle: "Bundle", new: NewItems) -> None:
    count = new.items.num_rows
    problems = []
    if new.vectors.shape != (count, bundle.dim):
        problems.append(f"vectors of shape {new.vectors.shape} for {count} items of {bundle.dim} dimensions")
    elif not (np.abs(np.linalg.norm(new.vectors, axis=1) - 1) <= _NORM_TOLERANCE).all():
        problems.append("vectors that are not of length 1")
    if new.lexical.n_items != bundle.n_items + count:
        problems.append(f"a lexical index of {new.lexical.n_items:,} texts for {bundle.n_items + count:,} items")
    if known := [item for item in new.items["item_id"].to_pylist() if bundle.row_of(item) is not None]:
        problems.append(f"{len(known)} items that the bundle has already, first {known[0]}")
    if problems:
        raise DataError(
            f"The new items do not fit the bundle {bundle.bundle_id}: {'; '.join(problems)}. "
            "Run `headrace embed_new_items` again."
        )


def _grown(values: np.ndarray, count: int, filler: float) -> np.ndarray:
    """Return an array with `count` rows of filler behind it."""
    return np.concatenate([values, np.full((count, *values.shape[1:]), filler, values.dtype)])


def cached_names(kind: type) -> list[str]:
    """Return the names of what a class computes once an object."""
    return [name for base in kind.__mro__ for name, value in vars(base).items() if isinstance(value, cached_property)]
