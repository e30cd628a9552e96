import math
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.features.item_statistics import ITEM_PRICES, ITEM_STATISTICS, item_prices_sql, item_statistics_sql
from pipelines.schemas import ITEMS
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table

TYPES = {"views": "view", "clicks": "click", "carts": "cart", "purchases": "purchase"}


def fold(*chunks: list[dict[str, Any]], half_life: float = 2) -> list[dict[str, Any]]:
    """Fold the chunks one after the other; return all rows by item and day."""
    rows: list[dict[str, Any]] = []
    state: dict[str, dict[str, Any]] = {}
    with open_duckdb() as connection:
        for chunk in chunks:
            connection.register("events", events_table(chunk))
            connection.register("state", pa.Table.from_pylist(list(state.values()), schema=ITEM_STATISTICS))
            made = connection.sql(item_statistics_sql(half_life)).to_arrow_table()
            assert [(field.name, field.type) for field in made.schema] == [
                (field.name, field.type) for field in ITEM_STATISTICS
            ]
            rows += made.to_pylist()
            state |= {row["item_id"]: row for row in sorted(made.to_pylist(), key=lambda row: row["event_timestamp"])}
    return sorted(rows, key=lambda row: (row["item_id"], row["event_timestamp"]))


def bought(*days: float) -> list[dict[str, Any]]:
    return [event(f"user-{number}", "a", day(at)) for number, at in enumerate(days)]


def test_a_day_is_known_when_it_is_over():
    rows = fold(bought(0.0, 0.999, 3.5))

    assert [(row["event_timestamp"], row["created_timestamp"], row["purchases"]) for row in rows] == [
        (day(1), day(1), 2),
        (day(4), day(4), 3),
    ]


def test_a_purchase_counts_half_after_a_half_life():
    rows = fold(bought(0.1, 0.2, 0.3, 0.4, 2.5, 4.5), half_life=2)

    assert [row["popularity"] for row in rows] == pytest.approx([4, 4 / 2 + 1, 4 / 4 + 1 / 2 + 1])
    assert [row["purchases_1d_decayed"] for row in rows] == pytest.approx([4, 4 / 4 + 1, 4 / 16 + 1 / 4 + 1])


def test_a_late_event_counts_on_its_arrival_and_has_aged_by_then():
    rows = fold([event("u", "a", day(0.5)), event("v", "a", day(0.6), arrived=day(7.2))])

    assert [row["event_timestamp"] for row in rows] == [day(1), day(8)]
    assert [row["purchases"] for row in rows] == [1, 2]
    assert rows[1]["purchases_7d_decayed"] == pytest.approx(1)  # two, both a week old


def test_the_trend_of_a_steady_item_is_one_and_of_a_new_one_above():
    steady = fold([event("u", "a", day(number), kind="view") for number in range(300)])
    rate_7, rate_28 = 1 - 0.5 ** (1 / 7), 1 - 0.5 ** (1 / 28)

    assert steady[-1]["trend"] == pytest.approx(1, abs=1e-3)
    assert steady[0]["trend"] == pytest.approx(rate_7 / rate_28)


def test_conversion_is_smoothed_and_null_without_views():
    events = [event("u", "a", day(0), kind="view", number=number) for number in range(4)]
    rows = fold([*events, *bought(0.1, 0.2), event("u", "b", day(0))])

    assert [row["conversion"] for row in rows] == [pytest.approx((2 + 1) / (4 + 20)), None]


def test_more_purchases_than_views_are_no_share_above_one():
    rows = fold([event("u", "a", day(0), kind="view"), *bought(*(0.1 for _ in range(50)))])

    assert rows[0]["conversion"] == 1


def test_days_that_the_state_knows_give_nothing():
    assert len(fold(bought(0.5), bought(0.5))) == 1


@pytest.mark.parametrize("left_out", [event("u", "a", day(0), kind="impression"), event("u", None, day(0))])
def test_not_part_of_the_statistics(left_out):
    assert fold([left_out]) == []


def reference(events: Iterable[dict[str, Any]], half_life: float) -> list[dict[str, Any]]:
    """Compute every row from all of its events, the slow way."""

    def number(moment) -> int:
        return math.floor((moment - day(0)) / timedelta(days=1))

    rows = []
    for item, today in sorted({(one["item_id"], number(one["created_timestamp"])) for one in events}):
        known = [one for one in events if one["item_id"] == item and number(one["created_timestamp"]) <= today]

        def decayed(kind: str, half: float, known=known, today=today) -> float:
            mine = [one for one in known if one["event_type"] == kind]
            ages = [
                max(number(one["created_timestamp"]) - number(one["event_timestamp"]), 0)
                + today
                - number(one["created_timestamp"])
                for one in mine
            ]
            return sum((0.5 ** (age / half) for age in ages), 0.0)

        counts = {name: sum(one["event_type"] == kind for one in known) for name, kind in TYPES.items()}
        week, month = (sum(decayed(kind, half) for kind in TYPES.values()) for half in (7, 28))
        views = counts["views"]
        share = (decayed("purchase", 28) + 1) / (decayed("view", 28) + 20)
        rows.append(
            {
                "item_id": item,
                "event_timestamp": day(today + 1),
                "created_timestamp": day(today + 1),
                **counts,
                **{
                    f"{name}_{half}d_decayed": decayed(kind, half)
                    for name, kind in TYPES.items()
                    for half in (1, 7, 28)
                },
                "popularity": decayed("purchase", half_life),
                "trend": week * (1 - 0.5 ** (1 / 7)) / (month * (1 - 0.5 ** (1 / 28))),
                "conversion": min(1.0, share) if views else None,
            }
        )
    return rows


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from(list(TYPES.values())), st.integers(0, 300), st.integers(0, 30)
        ),
        min_size=1,
        max_size=25,
    ),
    cuts=st.lists(st.integers(0, 330), max_size=3),
)
def test_any_cut_between_days_gives_the_rows_of_the_reference(drawn, cuts):
    events = [
        event("u", item, day(at + 0.25), kind=kind, arrived=day(at + late + 0.5), number=number)
        for number, (item, kind, at, late) in enumerate(drawn)
    ]
    chunks, rest = [], events
    for cut in [*sorted(cuts), 1_000]:
        chunks.append([one for one in rest if one["created_timestamp"] <= day(cut)])
        rest = [one for one in rest if one["created_timestamp"] > day(cut)]
    expected = reference(events, 14)

    for found in (fold(events, half_life=14), fold(*chunks, half_life=14)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            for name, value in other.items():
                assert one[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


def test_prices_stand_within_their_category_since_its_newest_price():
    rows = [
        {"item_id": "a", "category": "tea", "price": 1.0, "updated_at": day(0)},
        {"item_id": "b", "category": "tea", "price": 3.0, "updated_at": day(2)},
        {"item_id": "c", "category": "tea", "price": 2.0, "updated_at": day(1)},
        {"item_id": "d", "category": None, "price": 9.0, "updated_at": day(1)},
        {"item_id": "e", "category": "tea", "price": None, "updated_at": day(9)},
    ]
    with open_duckdb() as connection:
        full = [{"title": "x", "available": True} | row for row in rows]
        connection.register("items", pa.Table.from_pylist(full, schema=ITEMS))
        made = connection.sql(item_prices_sql()).to_arrow_table()

    assert [(field.name, field.type) for field in made.schema] == [(field.name, field.type) for field in ITEM_PRICES]
    assert {
        row["item_id"]: (row["event_timestamp"], row["created_timestamp"], row["price_position"])
        for row in made.to_pylist()
    } == {
        "a": (day(0), day(2), 0.0),
        "c": (day(1), day(2), 0.5),
        "b": (day(2), day(2), 1.0),
        "d": (day(1), day(1), 0.0),
    }
