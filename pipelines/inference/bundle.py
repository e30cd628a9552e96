"""The bundle: the folder that is deployed, and what answers from it. NumPy and ONNX Runtime only.

manifest.json             what is in the folder, with the SHA-256 of each file; written last
encoder.onnx              (input_ids, attention_mask) → sentence_embedding; reads items, and queries where it is alone
encoder_half.onnx         the same in float16, for a service with a GPU; where the settings ask for it
tokenizer.json
query_tower/              a smaller tower that reads queries, where one was chosen: `model.onnx`, `tokenizer.json`, and
                          `table_tokenizer.json` where its table of tokens has a vocabulary of its own
item_text_tower/          the same for a smaller tower that is the first to read items that arrive
user_tower.onnx           (item_vectors, event_types, gap_buckets, mask, activity) → user_embedding, attention
item_vectors.npy          int8 (n_items, dim), mapped into memory; with its
item_scales.npy           float32 (n_items,)
dense_index.onnx          the product of a vector with all items, read from the two files above
items.parquet             what answers show and filters need, in the order of the vectors
neighbors/<generator>/    `NeighborTable`: `item_to_item` is always there, retrieval spreads a history over all
popularity.npy            float32 (n_items,)
trends/                   `ItemTrends`: popularity as it was known on each day
ranker.onnx               features of candidates → logits of the heads; where enough was known to learn it
search_ranker.onnx        the same for candidates of a search; where there were judged queries
lexical/                  BM25 index
preprocessing.json        `Preprocessing`
metrics.json              what was measured when the bundle was made
item_tower.onnx           (text, category, brand, price[, image]) → item_vector, for items that arrive later; with its
item_tower.json           `ItemTowerFields` (older bundles have neither)
receipt.json              what the training run has read
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import BundleError, DataError
from pipelines.features.activity import ACTIVITY_FEATURES, activity_vector
from pipelines.features.on_demand import ItemFacts, item_facts
from pipelines.inference.manifest import (
    HALF_ENCODER,
    ITEM_TEXT_TOWER,
    QUERY_TOWER,
    Manifest,
    OtherVersionError,
    read_manifest,
    verify_files,
)
from pipelines.inference.new_items import NewItems, with_new_items
from pipelines.inference.preprocessing import (
    Preprocessing,
    RankerSettings,
    UserFeatures,
    behavior_batch,
)
from pipelines.inference.ranker import Ranker
from pipelines.inference.ranker_features import SEARCH_FEATURES, ranker_features
from pipelines.inference.sessions import Device, gpu_is_listed, open_session, runs_on_gpu
from pipelines.inference.shown_items import ShownItems
from pipelines.inference.text_encoder import TextEncoder, open_text_tower
from pipelines.inference.user_tower import UserTower
from pipelines.retrieval.dense import INDEX, VECTORS, DenseIndex, ItemVectors
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.retrieval.links import Links
from pipelines.retrieval.neighbors import load_tables
from pipelines.retrieval.trends import ItemTrends
from pipelines.retrieval.vector_index import ExactVectorIndex, VectorIndex

ITEM_TO_ITEM = "item_to_item"
"""The table that `goes with` answers from; every bundle has it."""
DENSE = "dense"
"""The generator that compares vectors."""
ITEM_COLUMNS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("currency", pa.string()),
        pa.field("available", pa.bool_(), nullable=False),
    ]
)
NORM_TOLERANCE = 2e-2
_USER_BATCH = 256
T = TypeVar("T")


def load_bundle(folder: Path, *, verify: bool = True, device: Device = "auto") -> "Bundle":
    """Open a bundle for answering.

    Args:
        verify: Compare every file with its SHA-256 first.

    Raises:
        BundleError: the bundle is missing, incomplete, corrupt, or of another format.
    """
    manifest = read_manifest(folder)
    if verify:
        verify_files(folder, manifest)
    return open_folder(folder, manifest, device)


class Bundle:
    """An open bundle. Immutable, and safe to use from several threads."""

    def __init__(
        self,
        *,
        folder: Path,
        manifest: Manifest,
        preprocessing: Preprocessing,
        items: pa.Table,
        item_vectors: ItemVectors,
        links: Links,
        popularity: np.ndarray,
        trends: ItemTrends,
        dense_index: DenseIndex,
        lexical: LexicalIndex,
        encoder: TextEncoder,
        user_tower_session: Any,
        metrics: Mapping[str, float],
        query_tower: TextEncoder | None = None,
        item_text_tower: TextEncoder | None = None,
        ranker: Ranker | None = None,
        search_ranker: Ranker | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.preprocessing = preprocessing
        self.items = items
        self.item_vectors = item_vectors
        """`(n_items, dim)` in int8; rows come back as float32, each L2 norm 1."""
        self.links = links
        """Item-to-item tables of the generators."""
        self.popularity = popularity
        """float32 `(n_items,)`, at least 0."""
        self.trends = trends
        self.ranker = ranker
        self.search_ranker = search_ranker
        """Scores candidates; None where the weights of the fusion decide."""
        self.dense_index = dense_index
        self.vector_index: VectorIndex = ExactVectorIndex(dense_index, item_vectors)
        """What finds the items nearest to a vector."""
        self.lexical = lexical
        self.metrics = metrics
        self.item_ids: list[str] = items["item_id"].to_pylist()
        self.available: np.ndarray = items["available"].to_numpy().astype(bool)
        self.prices: np.ndarray = items["price"].to_numpy().astype(np.float64)
        """float64 `(n_items,)`, NaN where there is none."""
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self._encoder = encoder
        self._query_tower = query_tower or encoder
        self._item_text_tower = item_text_tower
        self._user_tower = UserTower(user_tower_session, item_vectors)

    @property
    def bundle_id(self) -> str:
        """The id in the manifest, whatever the folder is called."""
        return self.manifest.bundle_id

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.item_vectors.shape[1])

    @property
    def generators(self) -> tuple[str, ...]:
        """Names of the generators whose scores the ranker of recommendations reads: the tables, then `dense`."""
        return (*self.links.names, DENSE)

    @cached_property
    def categories(self) -> tuple[dict[str, int], np.ndarray]:
        """Category numbers by case-folded name, and the number of each item, int32 `(n_items,)`, −1 for none."""
        return _codes(self.items["category"])

    @cached_property
    def brands(self) -> tuple[dict[str, int], np.ndarray]:
        """Brand numbers by case-folded name, and the number of each item, int32 `(n_items,)`, −1 for none."""
        return _codes(self.items["brand"])

    @cached_property
    def category_rows(self) -> dict[str, np.ndarray]:
        """Rows of the items of each category, int32, by case-folded name."""
        return _rows_by_name(*self.categories)

    @cached_property
    def brand_rows(self) -> dict[str, np.ndarray]:
        """Rows of the items of each brand, int32, by case-folded name."""
        return _rows_by_name(*self.brands)

    @cached_property
    def facts(self) -> ItemFacts:
        """Prices, categories and brands as the affinities of candidates need them."""
        return item_facts(*(self.items[name].to_pylist() for name in ("price", "category", "brand")))

    @cached_property
    def popularity_score(self) -> np.ndarray:
        """Popularity on a log scale, float32 `(n_items,)` in [0, 1], 1 for the most popular item."""
        logs = np.log1p(self.popularity)
        top = logs.max(initial=0.0)
        return (logs / top if top > 0 else logs).astype(np.float32)

    @cached_property
    def by_popularity(self) -> np.ndarray:
        """Rows of all items, int64 `(n_items,)`, the most popular first, ties in row order."""
        return np.argsort(-self.popularity_score, kind="stable")

    @cached_property
    def shown(self) -> np.ndarray | None:
        """Which items may be shown, bool `(n_items,)`; None for all."""
        return None if self.available.all() else self.available

    @cached_property
    def display(self) -> ShownItems:
        """What an answer shows of each item."""
        return ShownItems(self.items, self.item_ids)

    @cached_property
    def titles(self) -> list[str]:
        """The titles of all items; not for a request."""
        titles: list[str] = self.items["title"].to_pylist()
        return titles

    def with_vector_index(self, index: VectorIndex) -> "Bundle":
        """Return the same bundle with another index over its vectors."""
        other = copy.copy(self)
        other.vector_index = index
        return other

    def with_links(self, links: Links) -> "Bundle":
        """Return the same bundle with its links from elsewhere."""
        other = copy.copy(self)
        other.links = links
        return other

    def with_new_items(self, new: NewItems) -> "Bundle":
        """Return the same bundle with items that arrived since it was made; nothing is known of them but what they are.

        They stand behind the others, without popularity and without neighbours.
        """
        return with_new_items(self, new)

    def row_of(self, item_id: str) -> int | None:
        """Return the row number of an item, None if it is unknown."""
        return self._rows.get(item_id)

    def rows_of(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return int64 `(n,)` row numbers, −1 for unknown items."""
        return np.fromiter(map(self._rows.get, item_ids, repeat(-1)), np.int64, len(item_ids))

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Embed queries, float32 `(n, dim)`, each row L2 norm 1."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        return self._query_tower.encode(texts)

    def encode_items(self, texts: Sequence[str], *, at_first: bool = False) -> np.ndarray:
        """Embed texts of items, float32 `(n, dim)`, each row L2 norm 1, by the encoder that read the catalogue.

        Args:
            at_first: Take the smaller tower for items that arrive, where there is one.
        """
        if not texts:
            return np.empty((0, self.dim), np.float32)
        tower = self._item_text_tower if at_first and self._item_text_tower is not None else self._encoder
        return tower.encode(texts)

    def user_embedding(self, features: UserFeatures, now_s: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Embed one user at `now_s` (epoch seconds).

        Returns:
            float32 `(dim,)`, L2 norm 1, and the attention paid to each event of the history, float32
            `(len(features.item_ids),)`, 0 for events that were dropped; None if no item of the history is known.
        """
        rows = self.rows_of(features.item_ids)
        known = np.flatnonzero(rows >= 0)[-self.preprocessing.max_history :]
        if len(known) == 0:
            return None
        batch = behavior_batch([(rows, features.event_types, features.event_times)], [now_s], self.preprocessing)
        embedding, weights = self._user_tower.embed(batch, self._activity([features]))
        attention = np.zeros(len(rows), np.float32)
        attention[known] = weights[0, : len(known)]
        return embedding[0], attention

    def user_vector(self, features: UserFeatures, rows: np.ndarray, now_s: float) -> np.ndarray | None:
        """Return the vector of `user_embedding` alone; `rows` are those of the history, as `rows_of` gives them."""
        if not (rows >= 0).any():
            return None
        batch = behavior_batch([(rows, features.event_types, features.event_times)], [now_s], self.preprocessing)
        return self._user_tower.vectors(batch, self._activity([features]))[0]

    def user_embeddings(
        self, features: Sequence[UserFeatures], now_s: Sequence[float] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed many users, each at its own moment.

        Returns:
            float32 `(n, dim)`, each row L2 norm 1 or, for a user without a known item, 0; and bool `(n,)`, true
            where something was known.
        """
        embeddings = np.zeros((len(features), self.dim), np.float32)
        rows = [self.rows_of(user.item_ids) for user in features]
        has_history = np.fromiter(((r >= 0).any() for r in rows), bool, len(rows))
        indices = np.flatnonzero(has_history)
        for start in range(0, len(indices), _USER_BATCH):
            part = indices[start : start + _USER_BATCH]
            batch = behavior_batch(
                [(rows[i], features[i].event_types, features[i].event_times) for i in part],
                [float(now_s[i]) for i in part],
                self.preprocessing,
            )
            embeddings[part] = self._user_tower.vectors(batch, self._activity([features[i] for i in part]))
        return embeddings, has_history

    def _activity(self, features: Sequence[UserFeatures]) -> np.ndarray:
        if not self.preprocessing.activity_features:
            return np.zeros((len(features), 0), np.float32)
        return np.stack([activity_vector(user.activity) for user in features])


def open_folder(folder: Path, manifest: Manifest, device: Device) -> Bundle:
    """Open a folder as a manifest describes it, which need not be written yet.

    Raises:
        BundleError: a part is missing or broken, or the parts do not fit together.
    """
    preprocessing = _read(
        folder, "preprocessing.json", lambda path: Preprocessing.model_validate_json(path.read_text())
    )
    _check_activity_features(manifest.bundle_id, preprocessing.activity_features)
    vectors = _read(folder, VECTORS, lambda path: ItemVectors.load(path.parent))
    bundle = Bundle(
        folder=folder,
        manifest=manifest,
        preprocessing=preprocessing,
        items=_read(folder, "items.parquet", lambda path: pq.read_table(path, schema=ITEM_COLUMNS)),
        item_vectors=vectors,
        links=_read(folder, "neighbors", lambda path: Links.of_tables(load_tables(path))),
        trends=_read(folder, "trends", ItemTrends.load),
        popularity=_read(folder, "popularity.npy", _load_array),
        dense_index=DenseIndex(open_session(folder / INDEX, "cpu")),
        lexical=_read(folder, "lexical", LexicalIndex.load),
        encoder=_open_encoder(folder, preprocessing.max_tokens, device),
        query_tower=_open_tower(folder / QUERY_TOWER, preprocessing.max_tokens, device),
        item_text_tower=_open_tower(folder / ITEM_TEXT_TOWER, preprocessing.max_tokens, device),
        user_tower_session=open_session(folder / "user_tower.onnx", device),
        metrics=_read(folder, "metrics.json", lambda path: json.loads(path.read_text(encoding="utf-8"))),
        ranker=_open_ranker(folder, "ranker.onnx", preprocessing.ranker, device),
        search_ranker=_open_ranker(folder, "search_ranker.onnx", preprocessing.search_ranker, device),
    )
    _check_shapes(bundle)
    _check_ranker_features(bundle)
    _check_models(bundle)
    return bundle


def _open_encoder(folder: Path, max_tokens: int, device: Device) -> TextEncoder:
    """Open the float16 encoder on a GPU, where there are both; else the int8 one."""
    tokenizer = folder / "tokenizer.json"
    if (folder / HALF_ENCODER).is_file() and device != "cpu" and gpu_is_listed():
        session = open_session(folder / HALF_ENCODER, device)
        if runs_on_gpu(session):
            return TextEncoder(session, tokenizer, max_tokens)
    return TextEncoder(open_session(folder / "encoder.onnx", device), tokenizer, max_tokens)


def _open_tower(folder: Path, max_tokens: int, device: Device) -> TextEncoder | None:
    return open_text_tower(folder, max_tokens, device) if folder.is_dir() else None


def _open_ranker(folder: Path, name: str, settings: RankerSettings | None, device: Device) -> Ranker | None:
    if settings is None:
        return None
    ranker = Ranker(open_session(folder / name, device), settings.heads, settings.head_weights)
    if ranker.n_features != len(settings.features):
        raise BundleError(
            f"{name} of the bundle {folder} reads {ranker.n_features} features, {len(settings.features)} are "
            "declared: use another bundle, or make it again."
        )
    return ranker


def _check_activity_features(bundle_id: str, trained_on: tuple[str, ...]) -> None:
    if trained_on and trained_on != ACTIVITY_FEATURES:
        raise OtherVersionError(
            f"The bundle {bundle_id} was trained on the activity features {', '.join(trained_on)}, this version "
            f"computes {', '.join(ACTIVITY_FEATURES)}: train a new bundle, or use the version that wrote it."
        )


def _check_ranker_features(bundle: Bundle) -> None:
    for name, settings, computed in (
        ("ranker.onnx", bundle.preprocessing.ranker, ranker_features(bundle.generators)),
        ("search_ranker.onnx", bundle.preprocessing.search_ranker, SEARCH_FEATURES),
    ):
        if settings is not None and settings.features != computed:
            raise OtherVersionError(
                f"{name} of the bundle {bundle.bundle_id} was trained on other features than this version computes "
                f"({_difference(settings.features, computed)}): train a new bundle, or use the version that wrote it."
            )


def _difference(trained_on: Sequence[str], computed: Sequence[str]) -> str:
    """Say how two lists of features differ; most names are the same."""
    unknown = [name for name in trained_on if name not in computed]
    missing = [name for name in computed if name not in trained_on]
    if not unknown and not missing:
        return f"the same {len(computed)}, in another order"
    return (
        f"{len(trained_on)} found, unknown here: {', '.join(unknown) or 'none'}; "
        f"{len(computed)} needed, missing there: {', '.join(missing) or 'none'}"
    )


def _read(folder: Path, name: str, read: Callable[[Path], T]) -> T:
    try:
        return read(folder / name)
    except (OSError, ValueError, KeyError, EOFError, DataError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"{name} of the bundle {folder} cannot be read ({reason}): use another bundle, or make it again."
        ) from error


def _load_array(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def _check_shapes(bundle: Bundle) -> None:
    manifest, n = bundle.manifest, bundle.n_items
    problems = []
    if bundle.item_vectors.shape != (manifest.n_items, manifest.dim):
        problems.append(f"item_vectors.npy has shape {bundle.item_vectors.shape}")
    for name, length in (
        ("items.parquet", n),
        ("neighbors", len(bundle.links)),
        ("trends", bundle.trends.n_items),
        ("popularity.npy", len(bundle.popularity)),
        ("dense_index.onnx", bundle.dense_index.n_items),
        ("lexical", bundle.lexical.n_items),
    ):
        if length != manifest.n_items:
            problems.append(f"{name} has {length:,} rows")
    if ITEM_TO_ITEM not in bundle.links.names:
        problems.append(f"neighbors/{ITEM_TO_ITEM} is missing")
    arrays = (bundle.item_vectors.scales, bundle.popularity)
    if not all(np.isfinite(array).all() for array in arrays):
        problems.append("a number is not finite")
    if problems:
        raise BundleError(
            f"The bundle {manifest.bundle_id} does not fit together ({manifest.n_items:,} items of {manifest.dim} "
            f"dimensions are declared): {'; '.join(problems)}. Make it again, or use another bundle."
        )


def _check_models(bundle: Bundle) -> None:
    """Ask each model once; also the warm-up, of the lexical index as well."""
    from types import SimpleNamespace

    history = SimpleNamespace(
        item_ids=bundle.item_ids[:2], event_types=["purchase"] * 2, event_times=[0, 0], activity={}
    )
    try:
        query = bundle.encode_queries(["a first query"])
        item = bundle.encode_items(["a first query"])
        small = bundle.manifest.has_item_text_tower
        new_item = bundle.encode_items(["a first query"], at_first=True) if small else item
        user = bundle.user_embeddings([history], [0.0])[0]
    except Exception as error:
        raise _no_answer(bundle, error) from error
    for name, vectors in (
        ("query tower", query),
        ("encoder.onnx", item),
        (ITEM_TEXT_TOWER, new_item),
        ("user_tower.onnx", user),
    ):
        norm = float(np.linalg.norm(vectors[0]))
        if vectors.shape != (1, bundle.dim) or not abs(norm - 1) <= NORM_TOLERANCE:
            raise BundleError(
                f"{name} of the bundle {bundle.bundle_id} gives a vector of shape {vectors.shape[1:]} and length "
                f"{norm:.3f}; ({bundle.dim},) and length 1 are needed. Use another bundle."
            )
    try:  # after the vectors are known to be numbers: NaN becomes an integer with a warning, on some processors
        bundle.dense_index.scores(user[0])
        bundle.lexical.scores("a first query")
    except Exception as error:
        raise _no_answer(bundle, error) from error


def _no_answer(bundle: Bundle, error: Exception) -> BundleError:
    return BundleError(
        f"A model of the bundle {bundle.bundle_id} does not answer ({str(error).splitlines()[0]}): use another bundle."
    )


def _codes(column: pa.ChunkedArray) -> tuple[dict[str, int], np.ndarray]:
    numbers: dict[str, int] = {}
    codes = [-1 if name is None else numbers.setdefault(name.casefold(), len(numbers)) for name in column.to_pylist()]
    return numbers, np.asarray(codes, np.int32)


def _rows_by_name(numbers: Mapping[str, int], codes: np.ndarray) -> dict[str, np.ndarray]:
    numbers = dict(numbers)  # that of a bundle with an overlay grows meanwhile
    order = np.argsort(codes, kind="stable").astype(np.int32)
    starts = np.searchsorted(codes[order], np.arange(len(numbers) + 1))
    return {name: order[starts[number] : starts[number + 1]] for name, number in numbers.items()}
