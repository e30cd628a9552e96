"""The bundle that answers now, and its replacement without a failed request."""

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines.errors import BundleError, ConfigError, HeadraceError
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.places import Places
from pipelines.stores.new_items_store import pointer_path, read_new_items
from pipelines.stores.serving_pointer import read_pointer

BUNDLE_VARIABLE = "HEADRACE_BUNDLE"
PACKED = Path(__file__).resolve().parents[2] / "bundle"
"""Where a built Bento carries its bundle."""
_WATCH_INTERVAL_S = 1.0
_CACHED_QUERIES = 4_096
_logger = logging.getLogger("headrace.serving")


def find_bundle(places: Places, environment: Mapping[str, str], packed: Path = PACKED) -> Path:
    """Return the folder to serve: `HEADRACE_BUNDLE`, else the deployed bundle, else the one in the Bento.

    Raises:
        ConfigError: there is none.
        BundleError: the pointer to the deployed bundle is broken.
    """
    if named := environment.get(BUNDLE_VARIABLE):
        return Path(named)
    if pointer := read_pointer(places.current_bundle):
        return pointer.folder
    if packed.is_dir():
        return packed
    raise ConfigError(
        f"There is no bundle to serve: {BUNDLE_VARIABLE} is not set and nothing was deployed in {places.home}. "
        "Run `headrace loop` (it trains and deploys one), or set HEADRACE_BUNDLE to a bundle's folder."
    )


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

    def __init__(self, bundle: Bundle, queries: QueryCache | None = None) -> None:
        """Take a bundle, and the embeddings of queries where the same encoder made them."""
        self.bundle = bundle
        self.queries = queries or QueryCache()


class LiveBundle:
    """Holds the bundle that answers, with the items that arrived since it was made; follows both in the background."""

    def __init__(self, places: Places, environment: Mapping[str, str], packed: Path = PACKED) -> None:
        folder = find_bundle(places, environment, packed)
        self._new_items = places.new_items
        self._pointer_file = None if environment.get(BUNDLE_VARIABLE) else places.current_bundle
        self._seen = None if self._pointer_file is None else _stamp(self._pointer_file)
        self._seen_items: tuple[int, int] | None = None
        self.current = self._opened(folder)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle-watch", daemon=True)

    def start(self) -> None:
        """Begin to follow the pointer."""
        if self._pointer_file is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop following the pointer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _WATCH_INTERVAL_S)

    def refresh(self) -> bool:
        """Take over the bundle that the pointer names, if it is another one.

        A bundle that cannot be opened is logged and the old one goes on answering; the next change of the
        pointer is the next try.

        Returns:
            Whether another bundle answers now, or the same with other items.
        """
        return self._refresh_bundle() or self._refresh_items()

    def _refresh_bundle(self) -> bool:
        if self._pointer_file is None or (stamp := _stamp(self._pointer_file)) == self._seen:
            return False
        self._seen = stamp
        try:
            pointer = read_pointer(self._pointer_file)
            if pointer is None or pointer.bundle == self.current.bundle.bundle_id:
                return False
            replacement = self._opened(pointer.folder)
        except (HeadraceError, OSError) as error:
            _logger.error("Bundle %s goes on answering: %s", self.current.bundle.bundle_id, error)
            return False
        previous = self.current.bundle.bundle_id
        self._replace(replacement)
        _logger.warning("Bundle %s answers now, after %s", replacement.bundle.bundle_id, previous)
        return True

    def _refresh_items(self) -> bool:
        """Take over the items that stand beside the bundle, if they are others; the bundle is opened anew for them."""
        bundle = self.current.bundle
        if self._pointer_file is None or (stamp := self._items_stamp(bundle)) == self._seen_items:
            return False
        self._seen_items = stamp
        try:
            grown = _grown(_open(bundle.folder), self._new_items)
        except (HeadraceError, OSError) as error:
            _logger.error("Bundle %s goes on answering: %s", bundle.bundle_id, error)
            return False
        self._replace(Serving(grown, self.current.queries))
        added = grown.n_items - grown.manifest.n_items
        _logger.warning("Bundle %s answers with %d items that arrived since it was made", grown.bundle_id, added)
        return True

    def _opened(self, folder: Path) -> Serving:
        """Open a bundle with the items beside it; alone where those cannot be used.

        Raises:
            BundleError: the bundle cannot be opened.
        """
        bundle = _open(folder)
        self._seen_items = self._items_stamp(bundle)
        if self._pointer_file is not None:
            try:
                bundle = _grown(bundle, self._new_items)
            except HeadraceError as error:
                _logger.error("Bundle %s answers without new items: %s", bundle.bundle_id, error)
        return Serving(bundle)

    def _replace(self, serving: Serving) -> None:
        self.current = serving
        gc.collect()
        gc.freeze()

    def _items_stamp(self, bundle: Bundle) -> tuple[int, int] | None:
        return _stamp(pointer_path(self._new_items, bundle.bundle_id))

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_INTERVAL_S):
            try:
                self.refresh()
            except Exception:  # the watch must survive what it did not expect
                _logger.exception("Bundle %s goes on answering", self.current.bundle.bundle_id)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


def _grown(bundle: Bundle, new_items: Path) -> Bundle:
    """Return the bundle with what stands beside it.

    Raises:
        BundleError: that cannot be read.
        DataError: it does not fit the bundle.
    """
    new = read_new_items(new_items, bundle.bundle_id)
    return bundle if new is None else _warmed(bundle.with_new_items(new))


def _open(folder: Path) -> Bundle:
    """Load and verify a bundle, and touch what the first request would compute.

    Raises:
        BundleError: see `load_bundle`.
    """
    return _warmed(load_bundle(folder))


def _warmed(bundle: Bundle) -> Bundle:
    for warm in (bundle.categories, bundle.brands, bundle.popularity_score, bundle.display):
        if len(warm) == 0:
            raise BundleError(f"The bundle {bundle.bundle_id} is empty: use another one.")
    return bundle
