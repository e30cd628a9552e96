"""Item popularity: how often an item was bought lately."""


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
