"""Baskets: what a user bought together, the rows of every training set, and their split by time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.config import TrainingSetConfig

_DAY = timedelta(days=1)
_LARGEST_GROWN_SHARE = 0.1
"""A window grows to at most this share of all baskets, so that a small shop keeps something to train on."""


@dataclass(frozen=True)
class Split:
    """Whole UTC days, each part from its start up to the start of the next one."""

    train_start: datetime
    validation_start: datetime
    test_start: datetime
    test_end: datetime


def daily_baskets_sql() -> str:
    """Return a query over `events`: `day` (its start, UTC) and `baskets` of each day with purchases, oldest first."""
    return """
SELECT
    date_trunc('day', event_timestamp) AS day,
    count(DISTINCT (user_id, coalesce(session_id, event_timestamp::VARCHAR))) AS baskets
FROM events WHERE event_type = 'purchase' AND item_id IS NOT NULL
GROUP BY day ORDER BY day
"""


def split_by_time(daily: Sequence[tuple[datetime, int]], config: TrainingSetConfig) -> Split:
    """Return the split whose last test day is the newest day with purchases.

    The test and the validation window are as long as the settings say, and longer where that holds too few baskets to
    measure anything: after a gap in the data, a handful of new purchases must not become the whole test.

    Args:
        daily: Start of each UTC day with purchases and its number of baskets, oldest first, not empty.
    """
    needed = min(config.min_eval_rows, math.ceil(_LARGEST_GROWN_SHARE * sum(baskets for _, baskets in daily)))

    def start_before(end: datetime, days: int) -> datetime:
        start, held = end - days * _DAY, 0
        for day, baskets in reversed(daily):
            if day >= end:
                continue
            if day < start and held >= needed:
                break
            held += baskets
            start = min(start, day)
        return start

    test_end = daily[-1][0].astimezone(UTC) + _DAY
    test_start = start_before(test_end, config.test_days)
    validation_start = start_before(test_start, config.validation_days)
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
    new_item_ids,
    false AS replayed
FROM kept
ORDER BY row_id
"""


def older_rows_sql() -> str:
    """Return a query over `events`: a sample of the baskets before the new window, to be replayed and measured on.

    Baskets from `$start` up to before `$end` (see `baskets_sql`) with two columns more: `split`, which is `train` for
    `$replay_rows` of them and `old` for `$old_rows` others (a tenth of all at most), and `replayed`. Oldest first.

    Every basket has a random number, a hash of itself and of `$seed`, and the lowest stay: a uniform sample without
    replacement that needs no second look, comes out the same in any order of the rows, and changes little as baskets
    are added. The number behind `old` has no seed, so that parent and child are measured on much the same rows.

    Source: reservoir sampling with random keys, algorithm A of Efraimidis and Spirakis (2006) with equal weights.
    """
    name = "concat_ws('|', user_id, session_id, epoch_us(bought_at))"
    return f"""
WITH older AS ({baskets_sql()}),
numbered AS (
    SELECT
        *,
        row_number() OVER (ORDER BY md5('old|' || {name}), user_id, session_id, bought_at) AS old_place,
        count(*) OVER () AS total
    FROM older
),
placed AS (
    SELECT *, CASE WHEN old_place <= least($old_rows, total // 10) THEN 'old' ELSE 'train' END AS split FROM numbered
),
drawn AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY split ORDER BY md5($seed || '|' || {name}), user_id, session_id, bought_at
        ) AS place
    FROM placed
)
SELECT
    row_number() OVER (ORDER BY bought_at, user_id, session_id) - 1 AS row_id,
    split,
    user_id,
    session_id,
    bought_at - INTERVAL 1 MICROSECOND AS as_of,
    target_item_ids,
    new_item_ids,
    split = 'train' AS replayed
FROM drawn
WHERE split = 'old' OR place <= $replay_rows
ORDER BY row_id
"""


def replay_rows(new_rows: int, share: float) -> int:
    """Return how many rows to replay beside `new_rows`, so that they are `share` of all."""
    return round(new_rows * share / (1 - share))


def clicked_items_sql() -> str:
    """Return a query over `rows` and `events`: per validation row, what the user clicked from then on.

    Clicked, viewed or put into the cart up to before `$hours` after the row's moment, and before `$until`: what
    happened in the test window stays unknown. Columns: `row_id`, `item_ids`, distinct and sorted; rows without any
    are not there.
    """
    return """
SELECT row_id, list_sort(list(DISTINCT item_id)) AS item_ids
FROM rows JOIN events USING (user_id)
WHERE split = 'validation' AND event_type IN ('view', 'click', 'cart') AND item_id IS NOT NULL
    AND event_timestamp > as_of AND event_timestamp < least(as_of + to_hours($hours), $until)
GROUP BY row_id
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
