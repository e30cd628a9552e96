"""The business rules that hold now: read again whenever their file changes."""

import logging
import threading
from pathlib import Path
from weakref import WeakKeyDictionary

from bentos.recommender.file_stamp import file_stamp
from pipelines.errors import ConfigError
from pipelines.inference.bundle import Bundle
from pipelines.ranking.business_rules import BundleRules, RuleBook
from pipelines.stores.rules_file import read_rules

_WATCH_INTERVAL_S = 0.5
_CLOSE_TIMEOUT_S = 2.0
_logger = logging.getLogger("headrace.serving")


class LiveRules:
    """Follows a file of rules; without one there are none."""

    def __init__(self, path: Path | None, interval_s: float = _WATCH_INTERVAL_S) -> None:
        """Read the rules.

        Args:
            interval_s: Time between two looks at the file.

        Raises:
            ConfigError: a file is named and cannot be used.
        """
        self._path = path
        self._interval_s = interval_s
        self._stamp = file_stamp(path) if path is not None else None
        self._book = read_rules(path) if path is not None else RuleBook()
        self._of_bundles: WeakKeyDictionary[Bundle, BundleRules] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rules-watch", daemon=True)
        self.problem: str | None = None
        """Why the newest file is not followed; None where it is."""

    def start(self) -> None:
        """Begin to follow the file."""
        if self._path is not None and not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Stop following the file."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)

    def of(self, bundle: Bundle) -> BundleRules | None:
        """Return the rules over the items of a bundle; None where there is none."""
        if not self._book.rules:
            return None
        found = self._of_bundles.get(bundle)
        return found if found is not None and found.book is self._book else self._prepared(bundle)

    def refresh(self) -> bool:
        """Take over the file if it was changed; one that is wrong is logged, and the rules before go on.

        Returns:
            Whether other rules hold now.
        """
        if self._path is None or (stamp := file_stamp(self._path)) == self._stamp:
            return False
        self._stamp = stamp
        try:
            book = read_rules(self._path)
        except ConfigError as error:
            self.problem = str(error)
            _logger.error("The business rules stay as they were: %s", error)
            return False
        self.problem = None
        with self._lock:
            prepared = [(bundle, BundleRules(book, bundle)) for bundle in list(self._of_bundles)]
            for bundle, rules in prepared:
                self._of_bundles[bundle] = rules
            self._book = book
        _logger.warning("%d business rules hold now", len(book.rules))
        return True

    # Inside

    def _prepared(self, bundle: Bundle) -> BundleRules:
        """Look up the items of the rules; the first request to a bundle waits for it."""
        with self._lock:
            found = self._of_bundles.get(bundle)
            if found is None or found.book is not self._book:
                found = self._of_bundles[bundle] = BundleRules(self._book, bundle)
                if found.unmatched:
                    names = ", ".join(found.unmatched[:10])
                    _logger.warning("Rules that match no item of bundle %s: %s", bundle.bundle_id, names)
            return found

    def _watch(self) -> None:
        while not self._over.wait(self._interval_s):
            try:
                self.refresh()
            except Exception:  # the watch must survive what it did not expect
                _logger.exception("The business rules stay as they were")
