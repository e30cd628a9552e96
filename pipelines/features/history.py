"""User history: which events are remembered of a user."""

from collections.abc import Mapping
from typing import Any

HISTORY_EVENT_TYPES: tuple[str, ...] = ("view", "click", "cart", "purchase", "rating")
"""Events that say something about taste: an impression or a search does not name a chosen item."""
IS_REMEMBERED_SQL = f"item_id IS NOT NULL AND event_type IN {HISTORY_EVENT_TYPES!r}"
"""The condition that an event of the contract becomes part of a history; `is_remembered` for one event."""


def is_remembered(event: Mapping[str, Any]) -> bool:
    """Whether an event of the contract becomes part of a history."""
    return bool(event.get("item_id")) and event["event_type"] in HISTORY_EVENT_TYPES
