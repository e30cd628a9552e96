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

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.queries = QueryCache()


class LiveBundle:
    """Holds the bundle that answers; follows the pointer in the background."""

    def __init__(self, places: Places, environment: Mapping[str, str], packed: Path = PACKED) -> None:
        folder = find_bundle(places, environment, packed)
        self.current = Serving(_open(folder))
        self._pointer_file = None if environment.get(BUNDLE_VARIABLE) else places.current_bundle
        self._seen = self._stamp()
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
            Whether another bundle answers now.
        """
        if self._pointer_file is None or (stamp := self._stamp()) == self._seen:
            return False
        self._seen = stamp
        try:
            pointer = read_pointer(self._pointer_file)
            if pointer is None or pointer.bundle == self.current.bundle.bundle_id:
                return False
            replacement = Serving(_open(pointer.folder))
        except (HeadraceError, OSError) as error:
            _logger.error("Bundle %s goes on answering: %s", self.current.bundle.bundle_id, error)
            return False
        previous, self.current = self.current.bundle.bundle_id, replacement
        gc.collect()
        gc.freeze()
        _logger.warning("Bundle %s answers now, after %s", replacement.bundle.bundle_id, previous)
        return True

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_INTERVAL_S):
            try:
                self.refresh()
            except Exception:  # the watch must survive what it did not expect
                _logger.exception("Bundle %s goes on answering", self.current.bundle.bundle_id)

    def _stamp(self) -> tuple[int, int] | None:
        if self._pointer_file is None:
            return None
        try:
            status = self._pointer_file.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino


def _open(folder: Path) -> Bundle:
    """Load and verify a bundle, and touch what the first request would compute.

    Raises:
        BundleError: see `load_bundle`.
    """
    bundle = load_bundle(folder)
    for warm in (bundle.categories, bundle.brands, bundle.popularity_score, bundle.display):
        if len(warm) == 0:
            raise BundleError(f"The bundle {bundle.bundle_id} is empty: use another one.")
    return bundle
