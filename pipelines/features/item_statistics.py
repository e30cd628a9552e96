"""What happens to items, day by day, and where an item's price stands: folds over arrival days, as DuckDB SQL."""

import pyarrow as pa

from pipelines.features.folds import HALF_LIVES_DAYS, sql_counts, sql_lines
from pipelines.schemas import TIMESTAMP

COUNTED_TYPES = {"views": "view", "clicks": "click", "carts": "cart", "purchases": "purchase"}
"""Running count -> the event type that it counts."""
CONVERSION_PRIOR = (1.0, 20.0)
"""Purchases and views that an item is taken to have had: few views say little."""
_DECAYED = {f"{name}_{days}d": (name, days) for name in COUNTED_TYPES for days in HALF_LIVES_DAYS}

ITEM_STATISTICS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("created_timestamp", TIMESTAMP, nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in COUNTED_TYPES),
        *(pa.field(f"{name}_decayed", pa.float64(), nullable=False) for name in _DECAYED),
        pa.field("popularity", pa.float64(), nullable=False),
        pa.field("trend", pa.float64(), nullable=False),
        pa.field("conversion", pa.float64()),
    ]
)
"""Rows of the feature file `item_statistics`: one an item and arrival day on which something happened to it.

Both timestamps are the end of that day, so that a day is never known within itself.
"""
ITEM_PRICES = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("created_timestamp", TIMESTAMP, nullable=False),
        pa.field("price", pa.float64()),
        pa.field("price_position", pa.float64()),
    ]
)
"""Rows of the feature file `item_prices`: `price_position` is 0 for the cheapest of a category, 1 for the dearest."""


def item_statistics_sql(popularity_half_life_days: float, state: str = "state", events: str = "events") -> str:
    """Return a query: one row per item and arrival day, in the columns of `ITEM_STATISTICS`.

    An event counts 0.5 ** (age / half-life) in a decayed column, its age being the whole UTC days from the day on
    which it happened to the row's day. `trend` is the rate of all four types over a half-life of 7 days by that over
    28 days: 1 for an item to which as much happens every day. `conversion` is purchases by views, 28 days, with
    CONVERSION_PRIOR added, at most 1, and null for an item that was never viewed.

    Args:
        state: Relation with at most one row an item, the newest, in the columns of `ITEM_STATISTICS`.
        events: Relation in the form of the contract; days that the state knows are passed over.
    """
    types = ", ".join(f"'{kind}'" for kind in COUNTED_TYPES.values())
    decayed = {**_DECAYED, "popularity": ("purchases", popularity_half_life_days)}
    counts = sql_counts(COUNTED_TYPES)
    terms = sql_lines(
        f"sum({name} * pow(0.5::DOUBLE, (age + last_day - day) / {float(half_life)!r})) AS {column}"
        for column, (name, half_life) in decayed.items()
    )
    carried = sql_lines(
        f"{column}{'' if column == 'popularity' else '_decayed'} * "
        f"pow(0.5::DOUBLE, (last_day - {_DAY_OF_STATE}) / {float(half_life)!r})"
        for column, (_, half_life) in decayed.items()
    )
    rescaled = sql_lines(
        f"(sum({column}) OVER days * pow(2.0::DOUBLE, (last_day - day) / {float(half_life)!r}))::DOUBLE "
        f"AS {column}{'' if column == 'popularity' else '_decayed'}"
        for column, (_, half_life) in decayed.items()
    )
    week, month = (" + ".join(f"{name}_{days}d_decayed" for name in COUNTED_TYPES) for days in (7, 28))
    purchases, views = CONVERSION_PRIOR
    return f"""
WITH known AS (SELECT * FROM {state} SEMI JOIN {events} USING (item_id)),
daily AS (
    SELECT item_id, day, greatest(day - happened_day, 0) AS age, {counts}
    FROM (
        SELECT
            item_id, event_type,
            epoch_us(created_timestamp) // 86400000000 AS day,
            epoch_us(event_timestamp) // 86400000000 AS happened_day
        FROM {events} WHERE item_id IS NOT NULL AND event_type IN ({types})
    )
    LEFT JOIN (SELECT item_id, {_DAY_OF_STATE} AS known_day FROM known) USING (item_id)
    WHERE known_day IS NULL OR day > known_day
    GROUP BY ALL
),
scale AS (SELECT max(day) AS last_day FROM daily),
days AS (
    SELECT
        item_id, day, true AS fresh,
        {sql_lines(f"sum({name})::BIGINT AS {name}" for name in COUNTED_TYPES)},
        {terms}
    FROM daily CROSS JOIN scale GROUP BY item_id, day
    UNION ALL
    SELECT
        item_id, {_DAY_OF_STATE}, false,
        {", ".join(COUNTED_TYPES)},
        {carried}
    FROM known CROSS JOIN scale
),
running AS (
    SELECT
        item_id, day, fresh,
        {sql_lines(f"(sum({name}) OVER days)::BIGINT AS {name}" for name in COUNTED_TYPES)},
        {rescaled}
    FROM days CROSS JOIN scale
    WINDOW days AS (PARTITION BY item_id ORDER BY day)
)
SELECT
    item_id,
    make_timestamptz((day + 1) * 86400000000) AS event_timestamp,
    make_timestamptz((day + 1) * 86400000000) AS created_timestamp,
    {", ".join(COUNTED_TYPES)},
    {", ".join(f"{column}_decayed" for column in _DECAYED)},
    popularity,
    ({week}) * {1 - 0.5 ** (1 / 7)!r} / (({month}) * {1 - 0.5 ** (1 / 28)!r}) AS trend,
    CASE WHEN views > 0
        THEN least(1, (purchases_28d_decayed + {purchases!r}::DOUBLE) / (views_28d_decayed + {views!r}::DOUBLE))
    END AS conversion
FROM running WHERE fresh
"""


def item_prices_sql() -> str:
    """Return a query over `items`: one row per item with a price, in the columns of `ITEM_PRICES`.

    Items without a category are one category. A position depends on all prices of the category, so it is known
    since the newest of them is.
    """
    return """
SELECT
    item_id,
    updated_at AS event_timestamp,
    max(updated_at) OVER (PARTITION BY category) AS created_timestamp,
    price,
    percent_rank() OVER (PARTITION BY category ORDER BY price) AS price_position
FROM items WHERE price IS NOT NULL
"""


_DAY_OF_STATE = "(epoch_us(event_timestamp) // 86400000000 - 1)"
