"""What answers: a bundle with what is remembered for it, opened with the items that arrived since it was made."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bentos.recommender.bundles.live_items import LiveItems
from bentos.recommender.file_stamp import file_stamp
from pipelines.config import ServingConfig
from pipelines.errors import BundleError, HeadraceError
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.ranking.carried import ItemChanges
from pipelines.ranking.prepared import Prepared
from pipelines.stores.item_log import ItemLog
from pipelines.stores.link_files import shared
from pipelines.stores.new_items_store import find_pointer, pointer_path, read_new_items
from pipelines.stores.qdrant_index import with_vector_engine
from pipelines.stores.vector_index_files import indexed

_EMBED_BUDGET_S = 0.4
"""Time for new vectors of items in one look."""
_EMBED_BUDGET_AT_START_S = 2.0
"""The same before a bundle answers; what is left then is found by its words until its turn comes."""
_CACHED_QUERIES = 4_096
_logger = logging.getLogger("headrace.serving")


class QueryCache:
    """Embeddings of the last queries; safe for several threads."""

    def __init__(self, size: int = _CACHED_QUERIES) -> None:
        self._size = size
        self._vectors: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, query: str) -> np.ndarray | None:
        """Return float32 `(dim,)`, or None where the query is not cached."""
        with self._lock:
            vector = self._vectors.get(query)
            if vector is not None:
                self._vectors.move_to_end(query)
            return vector

    def put(self, query: str, vector: np.ndarray) -> None:
        """Remember an embedding and forget the oldest one beyond the size."""
        with self._lock:
            self._vectors[query] = vector
            self._vectors.move_to_end(query)
            if len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


class Serving:
    """A bundle with what is remembered for it; replaced as a whole."""

    def __init__(self, bundle: Bundle, queries: QueryCache | None = None, items: LiveItems | None = None) -> None:
        """Take a bundle, the embeddings of queries where the same encoder made them, and how its items are followed."""
        self.bundle = bundle
        self.queries = queries or QueryCache()
        self.items = items
        self._prepared: Prepared | None = None

    def followed(self, budget_s: float = _EMBED_BUDGET_S) -> "Iterator[Serving]":
        """Yield what answers in its place, whenever the item log has changed the bundle.

        Args:
            budget_s: Time for new vectors.
        """
        if self.items is not None:
            serving = self
            for bundle, changes in self.items.follow(budget_s):
                serving = serving._after(bundle, changes)
                yield serving

    def _after(self, bundle: Bundle, changes: ItemChanges) -> "Serving":
        other = Serving(bundle, self.queries, self.items)
        other._prepared = self._prepared.carried(changes) if self._prepared is not None else None
        return other

    def newest(self, budget_s: float = _EMBED_BUDGET_S) -> "Serving":
        """Return what answers in its place once the item log is followed: itself where nothing changed."""
        newest = self
        for serving in self.followed(budget_s):
            newest = serving
        return newest

    def prepared(self, settings: ServingConfig) -> Prepared:
        """Return what is remembered of users and of results, which hold for this bundle alone."""
        if self._prepared is None:
            self._prepared = Prepared(settings)
        return self._prepared


def open_serving(
    folder: Path,
    new_items: Path | None,
    item_log: ItemLog | None = None,
    *,
    queries: QueryCache | None = None,
    alone_if_need_be: bool = True,
) -> tuple[Serving, tuple[int, int] | None]:
    """Open a bundle with the items beside it and all that the item log says: the one way to what answers.

    Args:
        new_items: Where items beside bundles are; None takes none.
        item_log: What is told of items; None follows nothing.
        queries: Embeddings that the same bundle made.
        alone_if_need_be: Whether the bundle answers alone where the items beside it cannot be used.

    Returns:
        What answers, and the stamp of the items that were there.

    Raises:
        BundleError: the bundle cannot be opened, or what stands beside it cannot be read.
        DataError: what stands beside it does not fit it.
    """
    bundle = _warmed(with_vector_engine(indexed(shared(load_bundle(folder)))))
    stamp, beside = None, None
    if new_items is not None:
        stamp = items_stamp(new_items, bundle.bundle_id)
        try:
            beside = _known_beside(new_items, bundle.bundle_id)
            bundle = _grown(bundle, new_items)
        except HeadraceError as error:
            if not alone_if_need_be:
                raise
            beside = None
            _logger.error("Bundle %s answers without new items: %s", bundle.bundle_id, error)
    if item_log is None:
        return Serving(bundle, queries), stamp
    items = LiveItems(bundle, item_log, beside=beside)
    return Serving(bundle, queries, items).newest(_EMBED_BUDGET_AT_START_S), stamp


def items_stamp(new_items: Path, bundle_id: str) -> tuple[int, int] | None:
    """Return what changes whenever other items stand beside a bundle; None where none do."""
    return file_stamp(pointer_path(new_items, bundle_id))


def _known_beside(new_items: Path, bundle_id: str) -> Mapping[str, Any] | None:
    """Return the place in the item log up to which the items beside a bundle are known."""
    pointer = find_pointer(new_items, bundle_id)
    return pointer.items_cursor if pointer else None


def _grown(bundle: Bundle, new_items: Path) -> Bundle:
    """Return the bundle with what stands beside it.

    Raises:
        BundleError: that cannot be read.
        DataError: it does not fit the bundle.
    """
    new = read_new_items(new_items, bundle.bundle_id)
    return bundle if new is None else _warmed(bundle.with_new_items(new))


def _warmed(bundle: Bundle) -> Bundle:
    """Touch what the first request would compute."""
    for warm in (bundle.categories, bundle.brands, bundle.popularity_score, bundle.display):
        if len(warm) == 0:
            raise BundleError(f"The bundle {bundle.bundle_id} is empty: use another one.")
    return bundle
