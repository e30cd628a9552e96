"""User activity: trailing counts and spend at each moment of a user, and how a model reads them."""

from collections.abc import Mapping

import numpy as np

from pipelines.features.history import HISTORY_EVENT_TYPES

ACTIVITY_FEATURES: tuple[str, ...] = (
    "events_1d",
    "events_7d",
    "events_28d",
    "spend_28d",
    "mean_value_28d",
    "days_since_first",
)
"""Features of the view `user_activity`, in the order of `activity_vector`."""


def activity_vector(values: Mapping[str, float | None]) -> np.ndarray:
    """Turn the features of one user into numbers for a model: log(1 + x), and 0 where nothing is known.

    The one preprocessing of training and serving. Negative values (refunds) count as 0.

    Args:
        values: Feature name -> value; absent, null and NaN mean unknown.

    Returns:
        float32 `(len(ACTIVITY_FEATURES),)`, each >= 0.
    """
    raw = np.array(
        [values.get(name) if values.get(name) is not None else 0.0 for name in ACTIVITY_FEATURES], np.float64
    )
    return np.log1p(np.maximum(np.nan_to_num(raw, nan=0.0), 0.0)).astype(np.float32)


def user_activity_sql() -> str:
    """Return a query over `events`: one row per user and moment at which the user did something.

    A window of n days at moment t is `(t - n days, t]`: it includes the moment itself, and an event exactly n
    days old has left it. `created_timestamp` is the latest arrival among the events that a row is made of.
    The query has one parameter, `$until`: events that arrived later are left out.
    """
    types = ", ".join(f"'{name}'" for name in HISTORY_EVENT_TYPES)

    def window(days: int) -> str:
        return (
            "OVER (PARTITION BY user_id ORDER BY event_timestamp "
            f"RANGE BETWEEN INTERVAL {days * 86_400_000_000 - 1} MICROSECONDS PRECEDING AND CURRENT ROW)"
        )

    return f"""
WITH moments AS (
    SELECT
        user_id,
        event_timestamp,
        count(*) AS n,
        coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0) AS spend,
        count(value) FILTER (WHERE event_type = 'purchase') AS valued,
        max(created_timestamp) AS arrival
    FROM events
    WHERE item_id IS NOT NULL AND event_type IN ({types}) AND created_timestamp <= $until
    GROUP BY user_id, event_timestamp
),
firsts AS (
    SELECT user_id, min(event_timestamp) AS first_at, arg_min(arrival, event_timestamp) AS first_arrival
    FROM moments GROUP BY user_id
),
windows AS (
    SELECT
        user_id,
        event_timestamp,
        sum(n) {window(1)} AS events_1d,
        sum(n) {window(7)} AS events_7d,
        sum(n) {window(28)} AS events_28d,
        sum(spend) {window(28)} AS spend,
        sum(valued) {window(28)} AS valued,
        max(arrival) {window(28)} AS arrival
    FROM moments
)
SELECT
    user_id,
    event_timestamp,
    greatest(arrival, first_arrival) AS created_timestamp,
    events_1d::BIGINT AS events_1d,
    events_7d::BIGINT AS events_7d,
    events_28d::BIGINT AS events_28d,
    spend::FLOAT AS spend_28d,
    (CASE WHEN valued > 0 THEN spend / valued END)::FLOAT AS mean_value_28d,
    ((epoch_us(event_timestamp) - epoch_us(first_at)) / 86400e6)::FLOAT AS days_since_first
FROM windows JOIN firsts USING (user_id)
"""
