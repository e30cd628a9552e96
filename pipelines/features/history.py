"""User history: which events are remembered of a user."""

HISTORY_EVENT_TYPES: tuple[str, ...] = ("view", "click", "cart", "purchase", "rating")
"""Events that say something about taste: an impression or a search does not name a chosen item."""
