import math
from datetime import datetime

import numpy as np
import pytest

from pipelines.features.activity import ACTIVITY_FEATURES, activity_vector, user_activity_sql
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table


def activity(events: list[dict], until: datetime | None = None) -> dict[datetime, dict]:
    """Return the rows of the query by their moment; one user is expected."""
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        rows = connection.sql(user_activity_sql(), params={"until": until or day(1000)}).to_arrow_table().to_pylist()
    return {row["event_timestamp"]: row for row in rows}


def test_a_moment_counts_itself_and_an_event_exactly_one_window_old_has_left():
    rows = activity(
        [event("u", "a", day(0)), event("u", "b", day(0.5)), event("u", "c", day(1)), event("u", "d", day(7))]
    )

    assert {at: (row["events_1d"], row["events_7d"], row["events_28d"]) for at, row in rows.items()} == {
        day(0): (1, 1, 1),
        day(0.5): (2, 2, 2),
        day(1): (2, 3, 3),  # the event of day 0 is a day old
        day(7): (1, 3, 4),  # … and now a week old
    }


def test_events_of_one_moment_share_one_row():
    rows = activity([event("u", "a", day(0), number=0), event("u", "b", day(0), number=1)])

    assert [row["events_1d"] for row in rows.values()] == [2]


def test_only_purchases_are_spend_and_only_valued_ones_have_a_mean():
    rows = activity(
        [
            event("u", "a", day(0), kind="view", value=100.0),
            event("u", "a", day(1), value=3.0),
            event("u", "b", day(2), value=5.0),
            event("u", "c", day(3)),
        ]
    )

    assert {at: (row["spend_28d"], row["mean_value_28d"]) for at, row in rows.items()} == {
        day(0): (0.0, None),
        day(1): (3.0, 3.0),
        day(2): (8.0, 4.0),
        day(3): (8.0, 4.0),
    }


def test_days_since_first_are_counted_from_the_first_event():
    rows = activity([event("u", "a", day(0)), event("u", "b", day(40.25))])

    assert rows[day(0)]["days_since_first"] == 0
    assert rows[day(40.25)]["days_since_first"] == 40.25


@pytest.mark.parametrize("kind", ["impression", "search"])
def test_impressions_and_searches_are_no_activity(kind):
    rows = activity([event("u", "a", day(0), kind=kind), event("u", "a", day(0.5))])

    assert list(rows) == [day(0.5)]
    assert rows[day(0.5)]["events_1d"] == 1


def test_a_row_is_known_when_the_last_of_its_events_has_arrived():
    rows = activity(
        [
            event("u", "a", day(0), arrived=day(0)),
            event("u", "b", day(1), arrived=day(9)),
            event("u", "c", day(2), arrived=day(2)),
            event("u", "d", day(35), arrived=day(35)),
        ]
    )

    assert {at: row["created_timestamp"] for at, row in rows.items()} == {
        day(0): day(0),
        day(1): day(9),
        day(2): day(9),  # it counts the event that arrives on day 9
        day(35): day(35),  # which has left the window by now
    }


def test_the_first_event_delays_every_row_because_days_since_first_needs_it():
    rows = activity([event("u", "a", day(0), arrived=day(50)), event("u", "b", day(40))])

    assert rows[day(40)]["created_timestamp"] == day(50)


def test_events_that_arrived_after_the_cut_off_are_left_out():
    events = [event("u", "a", day(0)), event("u", "b", day(1), arrived=day(3))]

    assert list(activity(events, until=day(2))) == [day(0)]
    assert list(activity(events, until=day(3))) == [day(0), day(1)]


def test_users_do_not_mix():
    with open_duckdb() as connection:
        connection.register("events", events_table([event("u", "a", day(0)), event("v", "a", day(0.5))]))
        rows = connection.sql(user_activity_sql(), params={"until": day(9)}).fetchall()

    assert len(rows) == 2
    assert {row[3] for row in rows} == {1}


def test_the_vector_is_the_logarithm_in_the_order_of_the_features():
    vector = activity_vector({"events_7d": math.e - 1, "spend_28d": 9.0, "events_1d": 0.0})

    assert ACTIVITY_FEATURES[:4] == ("events_1d", "events_7d", "events_28d", "spend_28d")
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, [0, 1, 0, math.log(10), 0, 0], rtol=1e-6)


@pytest.mark.parametrize("nothing", [None, math.nan, -3.0], ids=["null", "NaN", "a refund"])
def test_what_is_unknown_or_negative_counts_as_zero(nothing):
    np.testing.assert_array_equal(activity_vector({"spend_28d": nothing}), np.zeros(6, np.float32))
