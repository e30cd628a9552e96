"""The bundle that answers now, and its replacement without a failed request."""

import ctypes
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from bentos.recommender.bundles.serving import Serving, items_stamp, open_serving
from bentos.recommender.file_stamp import file_stamp
from pipelines.errors import ConfigError, HeadraceError
from pipelines.inference.bundle import Bundle
from pipelines.places import Places
from pipelines.stores.item_log import ItemLog
from pipelines.stores.service_status import StatusFile
from pipelines.stores.serving_pointer import read_pointer

BUNDLE_VARIABLE = "HEADRACE_BUNDLE"
PACKED = Path(__file__).resolve().parents[3] / "bundle"
"""Where a built Bento carries its bundle."""
_WATCH_INTERVAL_S = 0.25
_ITEMS_PAUSE_S, _VECTORS_PAUSE_S = 0.2, 0.05
"""Between two looks at the item log, however much comes in, and between two steps of making vectors: requests have the
processor in between, and what is remembered of users for a bundle is not forgotten more often."""
_CLOSE_TIMEOUT_S = 2.0
_RELEASE_TIMEOUT_S = 5.0
"""Longer than almost every request; what is in flight still goes with the next swap."""
_RELEASE_INTERVAL_S = 0.02
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


class LiveBundle:
    """Holds the bundle that answers, with the items that arrived since it was made; follows both in the background."""

    def __init__(
        self,
        places: Places,
        environment: Mapping[str, str],
        packed: Path = PACKED,
        beside: Callable[[], Mapping[str, str | None]] = dict,
    ) -> None:
        """Open the bundle to answer from.

        Args:
            beside: What is tried beside it, for the status: `canary` and `shadow`.
        """
        self._pointer_file = None if environment.get(BUNDLE_VARIABLE) else places.current_bundle
        self._seen = None if self._pointer_file is None else file_stamp(self._pointer_file)
        folder = find_bundle(places, environment, packed)
        self._new_items = None if self._pointer_file is None else places.new_items
        self.item_log = ItemLog(places.item_log)
        self._items_changed = threading.Event()
        self._swap = threading.Lock()
        self._followed_s = 0.0
        self._seen_items: tuple[int, int] | None = None
        self.current = self._opened(folder)
        self.prepare: Callable[[Bundle], object] = lambda _: None
        """What is to be done with a bundle before it answers, such as looking up what belongs to its items."""
        self._since = datetime.now(UTC)
        self._refused: tuple[str, str] | None = None
        self._beside = beside
        self._status = None if self._pointer_file is None else StatusFile(places.services)
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle-watch", daemon=True)
        self._items_thread = threading.Thread(target=self._watch_items, name="items-watch", daemon=True)

    def start(self) -> None:
        """Begin to follow the pointer and the item log."""
        self._items_thread.start()
        if self._pointer_file is not None:
            self._tell()
            self._thread.start()

    def close(self) -> None:
        """Stop following the pointer and the item log."""
        follows_pointer = self._thread.is_alive()
        self._stop.set()
        self._items_changed.set()
        if self._items_thread.is_alive():
            self._items_thread.join(timeout=_CLOSE_TIMEOUT_S)
        if follows_pointer:
            self._thread.join(timeout=_CLOSE_TIMEOUT_S)
            if self._status is not None:
                self._status.remove()

    def items_changed(self) -> None:
        """Look at the item log at once: this process has written to it."""
        self._items_changed.set()

    def follow_items(self) -> bool:
        """Take over what the item log says of items; return whether it said anything."""
        changed = False
        for serving in self.current.followed():
            self.prepare(serving.bundle)
            with self._swap:
                if self.current.items is not serving.items:  # another bundle answers by now, and has read the log
                    return changed
                self.current = serving
            changed = True
            self._followed_s = time.monotonic()
        return changed

    def refresh(self) -> bool:
        """Take over the bundle that the pointer names, if it is another one.

        A bundle that cannot be opened is logged and the old one goes on answering; the next change of the
        pointer is the next try.

        Returns:
            Whether another bundle answers now, or the same with other items.
        """
        with self._refreshing:
            return self._refresh_bundle() or self._refresh_items()

    @property
    def follows(self) -> bool:
        """Whether the bundle is that of a pointer, and not one that was named at the start."""
        return self._pointer_file is not None

    @property
    def refused(self) -> str | None:
        """Why the bundle of the pointer does not answer; None where it does."""
        return self._refused[1] if self._refused is not None else None

    def reload(self) -> bool:
        """As `refresh`, and try again what was refused, although the pointer is the same.

        Returns:
            Whether another bundle answers now, or the same with other items.
        """
        with self._refreshing:
            self._seen = self._seen_items = None
        return self.refresh()

    def _refresh_bundle(self) -> bool:
        if self._pointer_file is None or (stamp := file_stamp(self._pointer_file)) == self._seen:
            return False
        self._seen = stamp
        wanted = ""
        try:
            pointer = read_pointer(self._pointer_file)
            self._refused = None
            if pointer is None or pointer.bundle == self.current.bundle.bundle_id:
                return False
            wanted = pointer.bundle
            replacement = self._opened(pointer.folder)
        except (HeadraceError, OSError) as error:
            _logger.error("Bundle %s goes on answering: %s", self.current.bundle.bundle_id, error)
            self._refused = (wanted, str(error))
            return False
        previous = self.current.bundle.bundle_id
        self._replace(replacement)
        _logger.warning("Bundle %s answers now, after %s", replacement.bundle.bundle_id, previous)
        return True

    def _refresh_items(self) -> bool:
        """Take over the items that stand beside the bundle, if they are others; the bundle is opened anew for them."""
        # No name for the bundle itself: it would hold what is to be released.
        folder, bundle_id = self.current.bundle.folder, self.current.bundle.bundle_id
        if self._new_items is None or (stamp := items_stamp(self._new_items, bundle_id)) == self._seen_items:
            return False
        self._seen_items = stamp
        try:
            grown, _ = open_serving(
                folder, self._new_items, self.item_log, queries=self.current.queries, alone_if_need_be=False
            )
        except (HeadraceError, OSError) as error:
            _logger.error("Bundle %s goes on answering: %s", bundle_id, error)
            return False
        added = grown.bundle.n_items - grown.bundle.manifest.n_items
        self._replace(grown)
        _logger.warning("Bundle %s answers with %d items that arrived since it was made", bundle_id, added)
        return True

    def _opened(self, folder: Path) -> Serving:
        serving, self._seen_items = open_serving(folder, self._new_items, self.item_log)
        return serving

    def _replace(self, serving: Serving) -> None:
        serving = serving.newest()  # what came in while it was opened
        self.prepare(serving.bundle)
        with self._swap:
            if self.current.items is not None:
                self.current.items.close()
            old = weakref.ref(self.current.bundle)
            self.current = serving
        self._since = datetime.now(UTC)
        self._tell()
        release(old)

    def _tell(self) -> None:
        """Say in the status file which bundle answers."""
        if self._status is None:
            return
        refused, reason = self._refused or (None, "")
        try:
            self._status.write(
                bundle=self.current.bundle.bundle_id,
                since=self._since,
                refused=refused,
                reason=reason,
                **self._beside(),
            )
        except OSError as error:  # a disk of others that this service only reads
            _logger.warning("The status of the service is not written, no deployment waits for it: %s", error)
            self._status = None

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH_INTERVAL_S):
            try:
                self.refresh()
                self._tell()
            except Exception:  # the watch must survive what it did not expect
                _logger.exception("Bundle %s goes on answering", self.current.bundle.bundle_id)

    def _watch_items(self) -> None:
        while not self._stop.is_set():
            try:
                self.follow_items()
            except Exception:  # the watch must survive what it did not expect
                _logger.exception("Changes of items do not count for now")
            if self.current.items is not None and self.current.items.pending:
                self._stop.wait(_VECTORS_PAUSE_S)
                continue
            self._items_changed.wait(_WATCH_INTERVAL_S)
            self._items_changed.clear()
            self._stop.wait(max(0.0, self._followed_s + _ITEMS_PAUSE_S - time.monotonic()))


def release(old: "weakref.ref[Bundle]") -> None:
    """Give back the memory of a bundle that does not answer any more.

    Requests that still answer from it are waited for: garbage that is frozen would never be collected.
    """
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while old() is not None and time.monotonic() < deadline:
        time.sleep(_RELEASE_INTERVAL_S)
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim_heap()


def trim_heap() -> None:
    """Let Arrow and the C library return freed memory to the system, where it can be asked to (glibc)."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
