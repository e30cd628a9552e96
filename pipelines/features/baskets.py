"""Baskets: what a user bought together, the rows of every training set, and their split by time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.config import TrainingSetConfig

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Split:
    """Whole UTC days, each part from its start up to the start of the next one."""

    train_start: datetime
    validation_start: datetime
    test_start: datetime
    test_end: datetime


def split_by_time(newest: datetime, config: TrainingSetConfig) -> Split:
    """Return the split whose last test day is the day of the newest purchase."""
    test_end = newest.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + _DAY
    test_start = test_end - config.test_days * _DAY
    validation_start = test_start - config.validation_days * _DAY
    return Split(validation_start - config.window_days * _DAY, validation_start, test_start, test_end)


def baskets_sql() -> str:
    """Return a query over `events`: one row per basket, with the items that were new to the user.

    A basket is a session's purchases, and where there is no session, the purchases of one moment; `bought_at` is
    the time of the first. `new_item_ids` are the items of the basket that the user never bought before `bought_at`.
    The query has two parameters: baskets from `$start` up to before `$end`. Columns: `user_id`, `session_id`,
    `bought_at`, `target_item_ids`, `new_item_ids`, both distinct and sorted.
    """
    return """
WITH purchases AS (
    SELECT user_id, session_id, item_id, event_timestamp
    FROM events WHERE event_type = 'purchase' AND item_id IS NOT NULL
),
lines AS (
    SELECT
        user_id,
        session_id,
        item_id,
        min(event_timestamp) OVER (
            PARTITION BY user_id, session_id, CASE WHEN session_id IS NULL THEN event_timestamp END
        ) AS bought_at,
        min(event_timestamp) OVER (PARTITION BY user_id, item_id) AS first_bought
    FROM purchases
)
SELECT
    user_id,
    session_id,
    bought_at,
    list_sort(list(DISTINCT item_id)) AS target_item_ids,
    coalesce(list_sort(list(DISTINCT item_id) FILTER (WHERE first_bought >= bought_at)), []) AS new_item_ids
FROM lines
WHERE bought_at >= $start AND bought_at < $end
GROUP BY user_id, session_id, bought_at
"""


def training_rows_sql() -> str:
    """Return a query over `baskets`: the rows to keep, numbered by time.

    Of the training baskets the newest `$max_train_rows` stay; of validation and test `$max_eval_rows` each, spread
    evenly over their window. Further parameters: `$validation_start`, `$test_start`. `as_of` is a microsecond before
    the basket: what is stamped with the basket's own time would tell what is in it.
    """
    return """
WITH placed AS (
    SELECT
        *,
        CASE
            WHEN bought_at >= $test_start THEN 'test'
            WHEN bought_at >= $validation_start THEN 'validation'
            ELSE 'train'
        END AS split
    FROM baskets
),
numbered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY split ORDER BY bought_at, user_id, session_id) - 1 AS place,
        count(*) OVER (PARTITION BY split) AS total
    FROM placed
),
kept AS (
    SELECT * FROM numbered
    WHERE CASE WHEN split = 'train' THEN place >= total - $max_train_rows
        ELSE total <= $max_eval_rows OR place = 0
            OR place * $max_eval_rows // total <> (place - 1) * $max_eval_rows // total END
)
SELECT
    row_number() OVER (ORDER BY bought_at, user_id, session_id) - 1 AS row_id,
    split,
    user_id,
    session_id,
    bought_at - INTERVAL 1 MICROSECOND AS as_of,
    target_item_ids,
    new_item_ids
FROM kept
ORDER BY row_id
"""


def seen_items_sql() -> str:
    """Return a query over `rows` and `events`: per validation and test row, the items bought before its basket.

    Columns: `row_id`, `item_ids`, distinct and sorted; a row whose user had bought nothing has an empty list.
    """
    return """
WITH evaluated AS (SELECT row_id, user_id, as_of FROM rows WHERE split <> 'train'),
firsts AS (
    SELECT user_id, item_id, min(event_timestamp) AS first_bought
    FROM events WHERE event_type = 'purchase' AND item_id IS NOT NULL
    GROUP BY user_id, item_id
)
SELECT row_id, coalesce(list_sort(list(item_id) FILTER (WHERE item_id IS NOT NULL)), []) AS item_ids
FROM evaluated LEFT JOIN firsts ON firsts.user_id = evaluated.user_id AND first_bought <= as_of
GROUP BY row_id
ORDER BY row_id
"""
