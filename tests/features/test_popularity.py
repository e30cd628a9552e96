from datetime import datetime

import pytest

from pipelines.features.popularity import item_popularity_sql
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table


def popularity(events: list[dict], half_life_days: float = 2, until: datetime | None = None) -> dict[datetime, dict]:
    """Return the rows of the query by their timestamp; one item is expected."""
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        query = item_popularity_sql(half_life_days)
        rows = connection.sql(query, params={"until": until or day(1000)}).to_arrow_table().to_pylist()
    return {row["event_timestamp"]: row for row in sorted(rows, key=lambda row: row["event_timestamp"])}


def bought(*days: float) -> list[dict]:
    return [event(f"user-{number}", "a", day(at)) for number, at in enumerate(days)]


def test_a_day_is_known_when_it_is_over():
    assert list(popularity(bought(0.0, 0.999, 3.5))) == [day(1), day(4)]


def test_a_purchase_counts_half_after_a_half_life():
    rows = popularity(bought(0.1, 0.2, 0.3, 0.4, 2.5, 4.5), half_life_days=2)

    assert {at: row["popularity"] for at, row in rows.items()} == {
        day(1): 4.0,
        day(3): 4 / 2 + 1,
        day(5): 4 / 4 + 1 / 2 + 1,
    }


def test_trailing_counts_are_whole_days_with_the_day_itself():
    rows = popularity(bought(0.5, 6.5, 7.5, 28.5))

    assert {at: (row["purchases_1d"], row["purchases_7d"], row["purchases_28d"]) for at, row in rows.items()} == {
        day(1): (1, 1, 1),
        day(7): (1, 2, 2),
        day(8): (1, 2, 3),  # day 0 is the eighth day back
        day(29): (1, 1, 3),  # day 0 is the 29th
    }


def test_a_purchase_of_long_ago_does_not_count_any_more():
    rows = popularity(bought(0.5, 60.5), half_life_days=2)  # 30 half-lives

    assert rows[day(61)]["popularity"] == 1.0


@pytest.mark.parametrize("half_life_days", [0.5, 365.0])
def test_any_half_life_gives_numbers_in_bounds(half_life_days):
    rows = popularity(bought(0.5, 1.5, 900.5), half_life_days=half_life_days)

    assert all(1 <= row["popularity"] <= 3 for row in rows.values())


def test_only_purchases_make_popular():
    assert popularity([event("u", "a", day(0.5), kind="view")]) == {}


def test_late_purchases_are_left_out_or_delay_their_row():
    events = [*bought(0.5), event("late", "a", day(0.6), arrived=day(5))]

    assert popularity(events, until=day(4))[day(1)]["purchases_1d"] == 1
    row = popularity(events, until=day(5))[day(1)]
    assert (row["purchases_1d"], row["created_timestamp"]) == (2, day(5))
