"""Items that change while a bundle answers: what the item log says, taken over within a fraction of a second."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.errors import HeadraceError
from pipelines.inference.bundle import Bundle
from pipelines.inference.item_overlay import ItemOverlay
from pipelines.ranking.carried import ItemChanges
from pipelines.stores.item_log import Change, ItemLog

_EMBEDDED_AT_ONCE = 32
"""Items whose vectors are made before the bundle is handed on again: some 50 ms on one core."""
_logger = logging.getLogger("headrace.serving")


class LiveItems:
    """The items that changed beside one open bundle. It reads the log from where the bundle's catalogue ends."""

    def __init__(self, bundle: Bundle, log: ItemLog, *, beside: Mapping[str, Any] | None = None) -> None:
        """Take a bundle as it was opened.

        Args:
            beside: The place in the log up to which the items that stand beside the bundle (`embed_new_items`) are
                known; they were embedded with their pictures, and what they were then need not be taken again.
        """
        self._base: Bundle | None = bundle
        self._log = log
        self._cursor: Mapping[str, Any] | None = bundle.manifest.items_cursor
        self._beside = beside
        self._stamp: tuple[str, int] | None = None
        self._overlay: ItemOverlay | None = None
        self._lock = threading.Lock()
        self._over = False

    @property
    def pending(self) -> int:
        """Items whose vectors are still to be made."""
        return self._overlay.pending if self._overlay is not None else 0

    def close(self) -> None:
        """Stop making vectors: another bundle answers."""
        self._over = True

    def follow(self, budget_s: float | None = None) -> Iterator[tuple[Bundle, ItemChanges]]:
        """Yield the bundle and what changed whenever the log has changed it: words and facts at once, then vectors.

        Args:
            budget_s: Time after which no more vectors are made; the next call goes on. None makes all.
        """
        deadline = None if budget_s is None else time.monotonic() + budget_s
        with self._lock:
            changed = self._take_news()
            overlay = self._overlay
            if overlay is None:
                return
            if changed and overlay.pending > _EMBEDDED_AT_ONCE:
                yield overlay.bundle(), ItemChanges(*overlay.take_touched())
                changed = False
            while overlay.pending and not self._over:
                was_unread = overlay.unread > 0
                self._embed(overlay)
                changed = True
                if was_unread and not overlay.unread and overlay.pending:  # the small tower has read the last one
                    yield overlay.bundle(), ItemChanges(*overlay.take_touched())
                    changed = False
                if deadline is not None and time.monotonic() > deadline:
                    break
            if changed:
                yield overlay.bundle(), ItemChanges(*overlay.take_touched())

    def _take_news(self) -> bool:
        """Take over what the log says since the last look; return whether another bundle is to answer for it."""
        try:
            stamp = self._log.stamp()
            if stamp == self._stamp:
                return False
            states, cursor = self._log.behind(self._cursor)
            if self._overlay is None:
                states = self._not_known_beside(states)
            if states and self._overlay is None and self._base is not None:
                self._overlay, self._base = ItemOverlay(self._base), None
            matters = self._overlay is not None and self._overlay.apply(states.values())
        except (HeadraceError, OSError) as error:
            _logger.error("Changes of items do not count for now: %s", error)
            return False
        self._stamp, self._cursor = stamp, cursor
        return matters

    def _not_known_beside(self, states: dict[str, Change]) -> dict[str, Change]:
        """Leave out what the items beside the bundle know already."""
        if self._beside is None or self._base is None or not states:
            return states
        bundle, n_own = self._base, self._base.manifest.n_items
        newer = self._log.behind(self._beside)[0]
        return {
            item_id: state
            for item_id, state in states.items()
            if item_id in newer or (row := bundle.row_of(item_id)) is None or row < n_own
        }

    def _embed(self, overlay: ItemOverlay) -> None:
        try:
            overlay.embed(_EMBEDDED_AT_ONCE)
        except Exception:  # whatever a model raises, these items are found by their words
            given_up = ", ".join(overlay.give_up(_EMBEDDED_AT_ONCE))[:500]
            _logger.exception("Items get no vectors: %s", given_up or "the small tower fails, the encoder is tried")
