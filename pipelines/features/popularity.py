"""Item popularity by day: how often an item was bought lately."""

import math

_NEGLIGIBLE_HALF_LIVES = 20


def item_popularity_sql(half_life_days: float) -> str:
    """Return a query over `events`: one row per item and UTC day on which it was bought.

    The row's timestamp is the end of that day, so that a day's purchases are never known within the day. A
    purchase k days before the row's day counts 0.5 ** (k / half_life_days) in `popularity`; one older than 20
    half-lives (less than a millionth) is left out. The query has one parameter, `$until`: events that arrived
    later are left out.
    """
    horizon = max(27, math.ceil(_NEGLIGIBLE_HALF_LIVES * half_life_days))
    return f"""
WITH days AS (
    SELECT
        item_id,
        (epoch_us(event_timestamp) // 86400000000)::INTEGER AS day,
        count(*) AS purchases,
        max(created_timestamp) AS arrival
    FROM events
    WHERE item_id IS NOT NULL AND event_type = 'purchase' AND created_timestamp <= $until
    GROUP BY ALL
)
SELECT
    today.item_id,
    to_timestamp((today.day + 1) * 86400) AS event_timestamp,
    max(earlier.arrival) AS created_timestamp,
    (sum(earlier.purchases) FILTER (WHERE earlier.day = today.day))::BIGINT AS purchases_1d,
    coalesce(sum(earlier.purchases) FILTER (WHERE earlier.day > today.day - 7), 0)::BIGINT AS purchases_7d,
    coalesce(sum(earlier.purchases) FILTER (WHERE earlier.day > today.day - 28), 0)::BIGINT AS purchases_28d,
    sum(earlier.purchases * pow(0.5, (today.day - earlier.day) / {half_life_days!r}::DOUBLE))::FLOAT AS popularity
FROM days AS today
JOIN days AS earlier
    ON earlier.item_id = today.item_id AND earlier.day BETWEEN today.day - {horizon} AND today.day
GROUP BY today.item_id, today.day
"""


def popularity_as_of_sql(half_life_days: float) -> str:
    """Return a query over `events`: one row per item with its popularity at one moment.

    A purchase d days before the moment counts 0.5 ** (d / half_life_days). The query has one parameter, `$as_of`:
    what happened or arrived later is left out.
    """
    return f"""
SELECT item_id, sum(pow(0.5, (epoch($as_of) - epoch(event_timestamp)) / 86400 / {half_life_days!r}::DOUBLE))::FLOAT
    AS popularity
FROM events
WHERE item_id IS NOT NULL AND event_type = 'purchase' AND event_timestamp < $as_of AND created_timestamp <= $as_of
GROUP BY item_id
"""
