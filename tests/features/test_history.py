from datetime import datetime

import pytest

from pipelines.features.history import merge_history, user_history_sql
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table


def history(events: list[dict], length: int = 50, until: datetime | None = None) -> dict[datetime, dict]:
    """Return the rows of the query by their moment; one user is expected."""
    with open_duckdb() as connection:
        connection.register("events", events_table(events))
        rows = (
            connection.sql(user_history_sql(length), params={"until": until or day(1000)}).to_arrow_table().to_pylist()
        )
    return {row["event_timestamp"]: row for row in rows}


def test_each_moment_has_all_events_up_to_and_including_it_oldest_first():
    rows = history(
        [
            event("u", "c", day(2)),
            event("u", "a", day(0), kind="view"),
            event("u", "b2", day(1), number=2),
            event("u", "b1", day(1), number=1),
        ]
    )

    assert {at: row["item_ids"] for at, row in rows.items()} == {
        day(0): ["a"],
        day(1): ["a", "b1", "b2"],
        day(2): ["a", "b1", "b2", "c"],
    }
    assert rows[day(1)]["event_types"] == ["view", "purchase", "purchase"]
    assert rows[day(1)]["event_times"] == [int(day(0).timestamp()), int(day(1).timestamp()), int(day(1).timestamp())]


def test_only_the_newest_events_stay():
    rows = history([event("u", name, day(number)) for number, name in enumerate("abcde")], length=3)

    assert {at: "".join(row["item_ids"]) for at, row in rows.items()} == {
        day(0): "a",
        day(1): "ab",
        day(2): "abc",
        day(3): "bcd",
        day(4): "cde",
    }


def test_a_basket_larger_than_the_history_fills_it_with_its_last_items():
    rows = history([event("u", name, day(0), number=number) for number, name in enumerate("abcde")], length=3)

    assert rows[day(0)]["item_ids"] == ["c", "d", "e"]


def test_a_row_is_known_when_the_last_of_its_events_has_arrived_and_forgets_those_that_fell_out():
    rows = history(
        [event("u", "a", day(0), arrived=day(9)), event("u", "b", day(1)), event("u", "c", day(2))], length=2
    )

    assert {at: row["created_timestamp"] for at, row in rows.items()} == {
        day(0): day(9),
        day(1): day(9),
        day(2): day(2),
    }


def test_moment_ids_tell_all_rows_apart():
    with open_duckdb() as connection:
        events = [event(user, name, day(number)) for user in "uv" for number, name in enumerate("abc")]
        connection.register("events", events_table(events))
        rows = connection.sql(user_history_sql(), params={"until": day(9)}).to_arrow_table()

    assert sorted(rows["moment_id"].to_pylist()) == ["u:1", "u:2", "u:3", "v:1", "v:2", "v:3"]


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(event("u", "x", day(1), kind="impression"), id="an impression"),
        pytest.param(event("u", None, day(1), kind="search"), id="a search"),
        pytest.param(event("u", None, day(1), kind="view"), id="an event without an item"),
        pytest.param(event("u", "x", day(1), arrived=day(5)), id="an event that arrived after the cut-off"),
    ],
)
def test_not_part_of_a_history(left_out):
    rows = history([event("u", "a", day(0)), left_out, event("u", "b", day(2))], until=day(4))

    assert {at: row["item_ids"] for at, row in rows.items()} == {day(0): ["a"], day(2): ["a", "b"]}


def test_merging_puts_a_late_event_in_its_place():
    known = [("a", "view", 10), ("c", "view", 30)]

    assert merge_history(known, [("b", "click", 20)]) == [("a", "view", 10), ("b", "click", 20), ("c", "view", 30)]


def test_merging_twice_changes_nothing():
    fresh = [("b", "click", 20), ("b", "click", 20)]
    once = merge_history([("a", "view", 10)], fresh)

    assert once == [("a", "view", 10), ("b", "click", 20)]
    assert merge_history(once, fresh) == once


def test_merging_keeps_the_newest():
    assert merge_history([("a", "view", 1), ("b", "view", 2)], [("c", "view", 3)], 2) == [
        ("b", "view", 2),
        ("c", "view", 3),
    ]


def test_the_same_item_again_with_another_type_or_time_is_another_event():
    merged = merge_history([("a", "view", 1)], [("a", "cart", 1), ("a", "view", 2)])

    assert merged == [("a", "view", 1), ("a", "cart", 1), ("a", "view", 2)]
