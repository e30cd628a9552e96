"""Which bundle answers a user: the live one, or a canary for its share of the users; a shadow is only asked.

The guard of the canary learns what both found, and what the users did with it.
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bentos.recommender.answering.finding import Find, Found, sound, timed
from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.bundles.serving import Serving
from bentos.recommender.bundles.trials import Canary, ShadowQuestion, Trials
from bentos.recommender.contract.requests import RequestError
from pipelines.stores.served_requests import Call

_CLICKS = frozenset({"click", "view", "cart", "purchase"})
"""What counts as a click on an item that was shown."""
_logger = logging.getLogger("headrace.serving")


class BundleChoice:
    """Has the right bundle answer; a canary that fails costs nobody an answer."""

    def __init__(self, live: LiveBundle, trials: Trials | None, now: Callable[[], datetime]) -> None:
        """Take the bundles; without trials the live one answers everybody."""
        self._live = live
        self._trials = trials
        self._now = now

    def serving_of(self, user_id: str | None) -> Serving:
        """Return what answers a user (a pseudonym)."""
        canary = self._canary_of(user_id)
        return canary.serving if canary is not None else self._live.current

    def ask(self, call: Call, user_id: str | None, find: Find) -> Found:
        """Return the answer to a user.

        Raises:
            RequestError: the request itself is wrong.
        """
        canary = self._canary_of(user_id)
        found = self._by_canary(canary, call, user_id, find) if canary is not None and user_id is not None else None
        return found or self._by_live(call, user_id, find, has_canary=canary is not None)

    def count_clicks(self, events: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Tell the guard of a canary what users did with what they were shown."""
        canary = self._trials.canary if self._trials is not None else None
        if canary is None or self._trials is None:
            return
        clicked: dict[str, list[str]] = {}
        for event in events:
            if event["event_type"] in _CLICKS:
                clicked.setdefault(event["user_id"], []).append(event["item_id"])
        for user_id, item_ids in clicked.items():
            canary.guard.clicked(user_id, item_ids, now.timestamp())
        self._trials.stop_if_bad(canary)

    # Inside

    def _canary_of(self, user_id: str | None) -> Canary | None:
        return self._trials.canary_for(user_id) if self._trials is not None else None

    def _by_live(self, call: Call, user_id: str | None, find: Find, *, has_canary: bool) -> Found:
        """Answer from the live bundle; the guard of a canary and the shadow learn of it."""
        found = timed(find, self._live.current)
        if self._trials is None:
            return found
        now = self._now()
        canary = self._trials.canary
        if canary is not None and user_id is not None and not has_canary:
            canary.guard.live_answer(call, user_id, found.item_ids, found.latency_ms, now.timestamp())
            self._trials.stop_if_bad(canary)
        if self._trials.shadow is not None:
            question = ShadowQuestion(
                call=call,
                live=found.serving.bundle.bundle_id,
                live_items=found.item_ids,
                live_ms=found.latency_ms,
                ask=lambda serving: sound(find(serving)).item_ids,
                now=now,
            )
            self._trials.ask_shadow(question, random.random())  # noqa: S311 - a sample, not a secret
        return found

    def _by_canary(self, canary: Canary, call: Call, user_id: str, find: Find) -> Found | None:
        """Answer from the canary; None where it fails or finds nothing, which its guard learns."""
        assert self._trials is not None  # noqa: S101 - it gave the canary
        if canary.serving.bundle.bundle_id == self._live.current.bundle.bundle_id:
            return None  # promoted meanwhile
        try:
            found = timed(find, canary.serving)
            is_sound = found.problem is None
        except RequestError:  # about an item that the canary does not have: not its fault, nor a failure
            return None
        except Exception:
            _logger.exception("The canary %s failed", canary.trial.bundle)
            found, is_sound = None, False
        if found is None or not is_sound or not len(found.ranking.rows):
            instead = find(self._live.current)  # raises what is wrong with the request itself
            if not is_sound and instead.problem is None:
                canary.guard.canary_failed()
            elif is_sound and len(instead.ranking.rows):
                canary.guard.canary_failed(empty=True)
            self._trials.stop_if_bad(canary)
            return instead
        try:
            canary.guard.canary_answer(call, user_id, found.item_ids, found.latency_ms, self._now().timestamp())
            self._trials.stop_if_bad(canary)
        except Exception:  # an answer that is there is sent, whatever its guard makes of it
            _logger.exception("The guard of the canary %s failed", canary.trial.bundle)
        return found
