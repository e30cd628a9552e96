"""What is known of a user after each arrival of events: a fold, state and new events to rows, as one SQL text.

`build_features` runs it over some days for all users, `user_fold.py` does the same for one push of one user: the same
rows come out, however the events are cut into calls.
"""

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.features.folds import HALF_LIVES_DAYS, sql_counts, sql_lines
from pipelines.features.history import HISTORY_EVENT_TYPES, IS_REMEMBERED_SQL
from pipelines.schemas import MAX_HISTORY, TIMESTAMP

COUNTED_TYPES = {"views": "view", "clicks": "click", "carts": "cart", "purchases": "purchase", "ratings": "rating"}
"""Running count -> the event type that it counts."""
MAX_SPAN_DAYS = 1_000
"""Decay is exact among events of one call within so many days, lateness included; beyond, 2 ** age is no number."""

USER_ROWS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("created_timestamp", TIMESTAMP, nullable=False),
        pa.field("moment_id", pa.string(), nullable=False),
        pa.field("n_events", pa.int64(), nullable=False),
        pa.field("n_moments", pa.int64(), nullable=False),
        pa.field("first_at_us", pa.int64(), nullable=False),
        pa.field("arrived_at_us", pa.int64(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string())),
        pa.field("event_types", pa.list_(pa.string())),
        pa.field("event_times", pa.list_(pa.int64())),
        *(pa.field(name, pa.int64(), nullable=False) for name in COUNTED_TYPES),
        *(pa.field(f"events_{days}d_decayed", pa.float64(), nullable=False) for days in HALF_LIVES_DAYS),
        pa.field("spend_28d_decayed", pa.float64(), nullable=False),
        pa.field("valued_28d_decayed", pa.float64(), nullable=False),
        pa.field("mean_value_28d_decayed", pa.float64()),
        pa.field("mean_gap_days", pa.float64()),
        pa.field("days_since_first", pa.float64(), nullable=False),
    ]
)
"""Rows of the feature file `users`: one a user and arrival.

`event_timestamp` is the newest event's among all that arrived so far, and the decayed columns are as of then;
`created_timestamp` is the arrival, also in `arrived_at_us`, because Feast cannot give it back online. `n_events` and
`n_moments` count the usable events and their arrivals. Times in `event_times` are seconds since 1970, UTC.
"""

_DAY_US = 86_400_000_000.0
_MOST_HELD = 10 * MAX_HISTORY
"""Events of a history beyond which it cannot be ours."""
_NUMBERS = [field for field in USER_ROWS if field.type in (pa.int64(), pa.float64())]
NOTHING = 1e-9
"""A decayed number of valued purchases below this has no mean any more: 30 half-lives without one."""


def user_rows_sql(
    state: str = "state", events: str = "events", history_length: int = MAX_HISTORY, *, types_as_enum: bool = False
) -> str:
    """Return a query: one row per user and arrival of events, in the columns of `USER_ROWS`.

    An arrival is all usable events of a user with one `created_timestamp`; usable are events of an item whose type
    is in HISTORY_EVENT_TYPES. Those that the state knows already (they arrived no later than it) are passed over,
    so that a repeated call gives nothing.

    The history holds the last `history_length` of all events that arrived so far, oldest first, in the order of the
    second in which they happened; within a second those that arrived earlier come first, then by `event_timestamp`
    and `event_id`. An event that happened before others that arrived earlier takes its place among them.

    Args:
        state: Relation with at most one row a user, the newest, in the columns of `USER_ROWS`.
        events: Relation in the form of the contract.
        types_as_enum: Give `event_types` as a DuckDB ENUM, which is written to Parquet as text in half the time.
    """
    kind = f"ENUM{HISTORY_EVENT_TYPES!r}"
    counts = sql_counts(COUNTED_TYPES)
    bought = "FILTER (WHERE event_type = 'purchase')"
    valued = "FILTER (WHERE event_type = 'purchase' AND value IS NOT NULL)"
    age = "happened_us - arrived_us"
    terms = sql_lines(
        [
            *(f"sum({_power(days, age)}) AS events_{days}d" for days in HALF_LIVES_DAYS),
            f"coalesce(sum(value * {_power(28, age)}) {bought}, 0) AS spend_28d",
            f"coalesce(sum({_power(28, age)}) {valued}, 0) AS valued_28d",
        ]
    )
    decayed = {**{f"events_{days}d": days for days in HALF_LIVES_DAYS}, "spend_28d": 28, "valued_28d": 28}
    scaled = sql_lines(f"{name} * {_power(days, 'arrived_us - last_us')} AS {name}" for name, days in decayed.items())
    carried = sql_lines(
        f"{name}_decayed * {_power(days, 'epoch_us(event_timestamp) - last_us')}" for name, days in decayed.items()
    )
    summed = sql_lines(f"(sum({name}) OVER arrivals)::BIGINT AS {name}" for name in COUNTED_TYPES)
    summed_terms = sql_lines(f"sum({name}) OVER arrivals AS {name}" for name in decayed)
    rescaled = sql_lines(
        f"{name}_decayed := {name} * {_power(days, 'last_us - newest_us')}" for name, days in decayed.items()
    )
    return f"""
WITH known AS (SELECT * FROM {state} SEMI JOIN {events} USING (user_id)),
usable AS (
    SELECT
        user_id, event_id, item_id, event_type, value, event_timestamp, created_timestamp,
        epoch_us(event_timestamp) AS happened_us,
        epoch_us(created_timestamp) AS arrived_us
    FROM {events} AS fresh
    LEFT JOIN (SELECT user_id, arrived_at_us AS known_until FROM known) USING (user_id)
    WHERE {IS_REMEMBERED_SQL}
        AND (known_until IS NULL OR epoch_us(fresh.created_timestamp) > known_until)
),
scale AS (SELECT max(arrived_us) AS last_us FROM usable),
arrivals AS (
    SELECT
        user_id, arrived_us,
        count(*) AS n,
        max(happened_us) AS newest_us,
        min(happened_us) AS oldest_us,
        {counts},
        {terms}
    FROM usable GROUP BY user_id, arrived_us
),
moments AS (
    SELECT
        user_id, arrived_us, true AS fresh, n, 1 AS arrivals, newest_us, oldest_us, {", ".join(COUNTED_TYPES)},
        {scaled}
    FROM arrivals CROSS JOIN scale
    UNION ALL
    SELECT
        user_id, arrived_at_us, false, n_events, n_moments, epoch_us(event_timestamp), first_at_us,
        {", ".join(COUNTED_TYPES)},
        {carried}
    FROM known CROSS JOIN scale
),
running AS (
    SELECT
        user_id, arrived_us, fresh,
        (sum(n) OVER arrivals)::BIGINT AS n_events,
        (sum(arrivals) OVER arrivals)::BIGINT AS n_moments,
        (sum(n) FILTER (WHERE fresh) OVER arrivals)::BIGINT AS n_fresh,
        max(newest_us) OVER arrivals AS newest_us,
        min(oldest_us) OVER arrivals AS first_us,
        oldest_us // 1000000 < max(newest_us) OVER (arrivals ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            // 1000000 AS late,
        {summed},
        {summed_terms}
    FROM moments
    WINDOW arrivals AS (PARTITION BY user_id ORDER BY arrived_us)
),
rows AS (
    SELECT
        user_id,
        bool_or(coalesce(late, false)) AS late,
        list(struct_pack(
            arrived_us, newest_us, first_us, n_events, n_moments, n_fresh, {", ".join(COUNTED_TYPES)},
            {rescaled}
        ) ORDER BY arrived_us) AS rows
    FROM running CROSS JOIN scale WHERE fresh GROUP BY user_id
),
fresh_entries AS (  -- one list: three would be sorted three times
    SELECT
        user_id,
        list_sort(list({{
            'arrived_us': arrived_us, 'happened_us': happened_us, 'event_id': event_id, 'item': item_id,
            'type': event_type::{kind}
        }})) AS entries
    FROM usable GROUP BY user_id
),
whole AS (  -- all in the order of arrival; what the state held comes first
    SELECT
        user_id, late, rows,
        coalesce(len(known.item_ids), 0) AS held,
        coalesce(known.item_ids, []) || [entry.item FOR entry IN entries] AS items,
        coalesce(known.event_types::{kind}[], []) || [entry.type FOR entry IN entries] AS types,
        coalesce(known.event_times, []) || [entry.happened_us // 1000000 FOR entry IN entries] AS times
    FROM rows JOIN fresh_entries USING (user_id) LEFT JOIN known USING (user_id)
),
places AS (
    SELECT user_id, unnest(range(1, len(times) + 1)) AS place, unnest(times) AS time FROM whole WHERE late
),
ascents AS (  -- an event that is not older than any before it: after {history_length} of those, what came before is out
    SELECT
        user_id, place,
        time >= coalesce(max(time) OVER (
            PARTITION BY user_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), time) AS ascent
    FROM places
),
reaches AS (
    SELECT
        user_id,
        list(ascents ORDER BY place) AS ascents,
        list(place ORDER BY place) FILTER (WHERE ascent) AS ascent_places
    FROM (
        SELECT
            user_id, place, ascent,
            count(*) FILTER (WHERE ascent) OVER (PARTITION BY user_id ORDER BY place) AS ascents
        FROM ascents
    ) GROUP BY user_id
),
plain AS (
    SELECT
        user_id, row,
        items[greatest(1, held + row.n_fresh - {history_length - 1}):held + row.n_fresh] AS item_ids,
        types[greatest(1, held + row.n_fresh - {history_length - 1}):held + row.n_fresh] AS event_types,
        times[greatest(1, held + row.n_fresh - {history_length - 1}):held + row.n_fresh] AS event_times
    FROM (SELECT user_id, held, items, types, times, unnest(rows) AS row FROM whole WHERE NOT late)
),
merged AS (
    SELECT
        user_id, row,
        list_sort(list_zip(times[start:stop], range(start, stop + 1), items[start:stop], types[start:stop]))
            [-{history_length}:] AS entries
    FROM (
        SELECT
            * EXCLUDE (held, ascents, ascent_places),
            held + row.n_fresh AS stop,
            coalesce(ascent_places[greatest(1, ascents[held + row.n_fresh] - {history_length - 1})], 1) AS start
        FROM (
            SELECT user_id, held, items, types, times, ascents, ascent_places, unnest(rows) AS row
            FROM whole JOIN reaches USING (user_id)
        )
    )
),
histories AS (
    FROM plain
    UNION ALL BY NAME
    SELECT
        user_id, row,
        [entry[3] FOR entry IN entries] AS item_ids,
        [entry[4] FOR entry IN entries] AS event_types,
        [entry[1] FOR entry IN entries] AS event_times
    FROM merged
)
SELECT
    user_id,
    make_timestamptz(row.newest_us) AS event_timestamp,
    make_timestamptz(row.arrived_us) AS created_timestamp,
    user_id || ':' || row.n_events AS moment_id,
    row.n_events AS n_events,
    row.n_moments AS n_moments,
    row.first_us AS first_at_us,
    row.arrived_us AS arrived_at_us,
    item_ids,
    {"event_types" if types_as_enum else "event_types::VARCHAR[] AS event_types"},
    event_times,
    {sql_lines(f"row.{name} AS {name}" for name in COUNTED_TYPES)},
    {sql_lines(f"row.{name}_decayed AS {name}_decayed" for name in decayed)},
    CASE WHEN row.valued_28d_decayed > {NOTHING!r} THEN row.spend_28d_decayed / row.valued_28d_decayed END
        AS mean_value_28d_decayed,
    CASE WHEN row.n_moments > 1
        THEN (row.newest_us - row.first_us) / {_DAY_US} / (row.n_moments - 1) END AS mean_gap_days,
    (row.newest_us - row.first_us) / {_DAY_US} AS days_since_first
FROM histories
"""


def row_problem(values: Mapping[str, Any]) -> str | None:
    """Return why the values of an online row cannot be those of USER_ROWS; None for a sound row, or an empty one.

    Args:
        values: Columns of USER_ROWS as plain Python; None where nothing is known.
    """
    lists = [values["item_ids"], values["event_types"], values["event_times"]]
    if not values["n_events"]:
        return "a history without events" if values["n_events"] is None and any(lists) else None
    lengths = [len(one) for one in lists]
    if len(set(lengths)) > 1 or lengths[0] > min(_MOST_HELD, values["n_events"]):
        return f"{values['n_events']:,} events with {', '.join(f'{length:,}' for length in lengths)} in its lists"
    for field in _NUMBERS:
        value = values[field.name]
        if value is None:
            if not field.nullable:
                return f"no `{field.name}`"
        elif not isinstance(value, int if field.type == pa.int64() else float) or not math.isfinite(value):
            return f"the `{field.name}` {value!r:.40}"
    texts = all(isinstance(text, str) for text in (*values["item_ids"], *values["event_types"]))
    return None if texts and all(isinstance(time, int) for time in values["event_times"]) else "lists of other types"


def _power(half_life_days: int, age_us: str) -> str:
    """Return SQL for 2 ** (age_us / half-life): the weight of an event whose age is negative."""
    exponent = f"({age_us}) / {half_life_days * _DAY_US!r}"
    return f"pow(2.0::DOUBLE, greatest(-{MAX_SPAN_DAYS}, least({MAX_SPAN_DAYS}, {exponent})))"
