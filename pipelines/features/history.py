"""User history: the last events of a user, oldest first, at each moment of that user."""

from collections.abc import Iterable

from pipelines.schemas import MAX_HISTORY

HISTORY_EVENT_TYPES: tuple[str, ...] = ("view", "click", "cart", "purchase", "rating")
"""Events that say something about taste: an impression or a search does not name a chosen item."""

HistoryEntry = tuple[str, str, int]
"""Item id, event type, seconds since 1970 UTC."""


def user_history_sql(history_length: int = MAX_HISTORY) -> str:
    """Return a query over `events`: one row per user and moment, with the last events up to and including it.

    Events of one moment stand in the order of their ids. `created_timestamp` is the latest arrival among the
    events in the row: a reader at an earlier time gets an older row, which may lack events that it could have
    known, but never has one that it could not. `moment_id` names the row. The query has one parameter, `$until`:
    events that arrived later are left out.
    """
    types = ", ".join(f"'{name}'" for name in HISTORY_EVENT_TYPES)
    last = f"[greatest(1, n - {history_length - 1}):n]"
    return f"""
WITH usable AS (
    SELECT user_id, event_id, item_id, event_type, event_timestamp, created_timestamp
    FROM events
    WHERE item_id IS NOT NULL AND event_type IN ({types}) AND created_timestamp <= $until
),
everything AS (
    SELECT
        user_id,
        list(item_id ORDER BY event_timestamp, event_id) AS items,
        list(event_type ORDER BY event_timestamp, event_id) AS types,
        list(epoch_us(event_timestamp) // 1000000 ORDER BY event_timestamp, event_id) AS times,
        list(created_timestamp ORDER BY event_timestamp, event_id) AS arrivals
    FROM usable GROUP BY user_id
),
moments AS (
    SELECT
        user_id,
        event_timestamp,
        (sum(count(*)) OVER (PARTITION BY user_id ORDER BY event_timestamp))::BIGINT AS n
    FROM usable GROUP BY user_id, event_timestamp
)
SELECT
    user_id,
    event_timestamp,
    list_max(arrivals{last}) AS created_timestamp,
    user_id || ':' || n AS moment_id,
    items{last} AS item_ids,
    types{last} AS event_types,
    times{last} AS event_times
FROM moments JOIN everything USING (user_id)
"""


def merge_history(
    known: Iterable[HistoryEntry], fresh: Iterable[HistoryEntry], history_length: int = MAX_HISTORY
) -> list[HistoryEntry]:
    """Add fresh events to a history: oldest first, the last `history_length` kept.

    The same item, type and second is the same event, so adding events twice changes nothing. Events of one
    second stay in the order in which they came.
    """
    merged = list(known)
    there = set(merged)
    for entry in fresh:
        if entry not in there:
            there.add(entry)
            merged.append(entry)
    return sorted(merged, key=lambda entry: entry[2])[-history_length:]
