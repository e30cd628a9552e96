import pytest

from pipelines.features.popularity import popularity_as_of_sql
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table


def popularity(events: list[dict], as_of, half_life_days: float = 2) -> dict[str, float]:
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        rows = connection.sql(popularity_as_of_sql(half_life_days), params={"as_of": as_of}).to_arrow_table()
    return {row["item_id"]: row["popularity"] for row in rows.to_pylist()}


def test_a_purchase_counts_half_after_a_half_life():
    events = [event("u", "a", day(0)), event("u", "a", day(2)), event("u", "b", day(4))]

    assert popularity(events, day(6)) == pytest.approx({"a": 1 / 8 + 1 / 4, "b": 1 / 2})


def test_only_purchases_before_the_moment_that_had_arrived_make_popular():
    events = [
        event("u", "a", day(0), kind="view"),
        event("u", "b", day(6)),
        event("u", "c", day(1), arrived=day(7)),
    ]

    assert popularity(events, day(6)) == {}
