import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.features.history import HISTORY_EVENT_TYPES
from pipelines.features.user_state import USER_ROWS, user_rows_sql
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table

DAY_S = 86_400
PLURALS = {"views": "view", "clicks": "click", "carts": "cart", "purchases": "purchase", "ratings": "rating"}


def fold(*chunks: list[dict[str, Any]], length: int = 50) -> list[dict[str, Any]]:
    """Fold the chunks one after the other; return all rows by user and arrival."""
    rows: list[dict[str, Any]] = []
    state: dict[str, dict[str, Any]] = {}
    with open_duckdb() as connection:
        for chunk in chunks:
            connection.register("events", events_table(chunk))
            connection.register("state", pa.Table.from_pylist(list(state.values()), schema=USER_ROWS))
            made = connection.sql(user_rows_sql(history_length=length)).to_arrow_table().to_pylist()
            rows += made
            state |= {row["user_id"]: row for row in sorted(made, key=lambda row: row["created_timestamp"])}
    return sorted(rows, key=lambda row: (row["user_id"], row["created_timestamp"]))


def reference(events: Iterable[dict[str, Any]], length: int) -> list[dict[str, Any]]:
    """Compute every row from all of its events, the slow way."""
    rows = []
    usable = [one for one in events if one["item_id"] and one["event_type"] in HISTORY_EVENT_TYPES]
    for user, arrived in sorted({(one["user_id"], one["created_timestamp"]) for one in usable}):
        known = [one for one in usable if one["user_id"] == user and one["created_timestamp"] <= arrived]
        moments = len({one["created_timestamp"] for one in known})
        newest = max(one["event_timestamp"] for one in known)
        first = min(one["event_timestamp"] for one in known)
        span_days = (newest - first) / timedelta(days=1)

        def decayed(half_life: int, values: Iterable[tuple[datetime, float]], newest: datetime = newest) -> float:
            return sum((value * 0.5 ** ((newest - at) / timedelta(days=half_life)) for at, value in values), 0.0)

        everything = [(one["event_timestamp"], 1.0) for one in known]
        spent = [
            (one["event_timestamp"], one["value"])
            for one in known
            if one["event_type"] == "purchase" and one["value"] is not None
        ]
        spend, valued = decayed(28, spent), decayed(28, [(at, 1.0) for at, _ in spent])
        known.sort(
            key=lambda one: (
                math.floor(one["event_timestamp"].timestamp()),
                one["created_timestamp"],
                one["event_timestamp"],
                one["event_id"],
            )
        )
        last = known[-length:]
        rows.append(
            {
                "user_id": user,
                "event_timestamp": newest,
                "created_timestamp": arrived,
                "moment_id": f"{user}:{len(known)}",
                "n_events": len(known),
                "n_moments": moments,
                "first_at_us": round(first.timestamp() * 1e6),
                "arrived_at_us": round(arrived.timestamp() * 1e6),
                "item_ids": [one["item_id"] for one in last],
                "event_types": [one["event_type"] for one in last],
                "event_times": [math.floor(one["event_timestamp"].timestamp()) for one in last],
                **{name: sum(one["event_type"] == kind for one in known) for name, kind in PLURALS.items()},
                **{f"events_{days}d_decayed": decayed(days, everything) for days in (1, 7, 28)},
                "spend_28d_decayed": spend,
                "valued_28d_decayed": valued,
                "mean_value_28d_decayed": spend / valued if valued > 1e-9 else None,
                "mean_gap_days": span_days / (moments - 1) if moments > 1 else None,
                "days_since_first": span_days,
            }
        )
    return rows


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert {name: value for name, value in one.items() if not isinstance(value, float)} == {
            name: value for name, value in other.items() if not isinstance(value, float)
        }
        for name, value in other.items():
            if isinstance(value, float):
                assert one[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_the_columns_and_types_are_those_of_user_rows():
    with open_duckdb() as connection:
        connection.register("events", events_table([event("u", "a", day(0))]))
        connection.register("state", USER_ROWS.empty_table())
        made = connection.sql(user_rows_sql()).to_arrow_table()

    assert [(field.name, field.type) for field in made.schema] == [(field.name, field.type) for field in USER_ROWS]


def test_counts_decay_by_half_in_a_half_life_of_a_day_a_week_and_four_weeks():
    rows = fold([event("u", "a", day(0)), event("u", "b", day(28), kind="view"), event("u", "c", day(28), kind="cart")])

    # 28 days are 28, 4 and 1 half-lives.
    assert rows[0]["events_1d_decayed"] == rows[0]["events_7d_decayed"] == rows[0]["events_28d_decayed"] == 1
    assert rows[1]["events_1d_decayed"] == pytest.approx(2 + 2**-28)
    assert rows[1]["events_7d_decayed"] == pytest.approx(2 + 1 / 16)
    assert rows[1]["events_28d_decayed"] == pytest.approx(2.5)
    assert {name: rows[1][name] for name in PLURALS} == {
        "views": 1,
        "clicks": 0,
        "carts": 1,
        "purchases": 1,
        "ratings": 0,
    }


def test_only_purchases_are_spend_and_only_valued_ones_have_a_mean():
    rows = fold(
        [
            event("u", "a", day(0), kind="view", value=100.0),
            event("u", "a", day(1), value=3.0),
            event("u", "b", day(29), value=5.0),
            event("u", "c", day(57)),
        ]
    )

    assert [row["spend_28d_decayed"] for row in rows] == pytest.approx([0, 3, 6.5, 3.25])
    assert rows[0]["mean_value_28d_decayed"] is None
    # (5 + 3 / 2) / (1 + 1 / 2), and time alone does not change a mean
    assert [row["mean_value_28d_decayed"] for row in rows[1:]] == pytest.approx([3, 13 / 3, 13 / 3])


def test_gaps_are_between_arrivals_and_days_since_the_first_event():
    rows = fold([event("u", "a", day(0)), event("u", "b", day(0), number=1), event("u", "c", day(1)),
                 event("u", "d", day(4.5))])  # fmt: skip

    assert [row["mean_gap_days"] for row in rows] == [None, 1, 2.25]
    assert [row["days_since_first"] for row in rows] == [0, 1, 4.5]


def test_events_that_arrive_together_are_one_row_and_stand_by_time_then_id():
    rows = fold([event("u", name, day(0), number=number) for name, number in (("b", 2), ("c", 3), ("a", 1))])

    assert [(row["moment_id"], row["item_ids"]) for row in rows] == [("u:3", ["a", "b", "c"])]


def test_a_late_event_takes_its_place_in_a_new_row_and_changes_no_older_one():
    rows = fold(
        [event("u", "a", day(0)), event("u", "c", day(2)), event("u", "b", day(1), kind="view", arrived=day(3))]
    )

    assert [row["item_ids"] for row in rows] == [["a"], ["a", "c"], ["a", "b", "c"]]
    assert [row["event_timestamp"] for row in rows] == [day(0), day(2), day(2)]
    assert rows[2]["created_timestamp"] == day(3)
    assert rows[2]["event_types"] == ["purchase", "view", "purchase"]
    assert rows[2]["events_1d_decayed"] == pytest.approx(1 + 1 / 2 + 1 / 4)


def test_only_the_newest_events_stay_however_late_they_come():
    rows = fold(
        [event("u", name, day(number)) for number, name in enumerate("abcd")]
        + [event("u", "x", day(0.5), arrived=day(5)), event("u", "y", day(2.5), arrived=day(6))],
        length=3,
    )

    assert ["".join(row["item_ids"]) for row in rows] == ["a", "ab", "abc", "bcd", "bcd", "cyd"]


def test_a_basket_larger_than_the_history_fills_it_with_its_last_items():
    rows = fold([event("u", name, day(0), number=number) for number, name in enumerate("abcde")], length=3)

    assert rows[0]["item_ids"] == ["c", "d", "e"]


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(event("u", "x", day(1), kind="impression"), id="an impression"),
        pytest.param(event("u", None, day(1), kind="search"), id="a search"),
        pytest.param(event("u", None, day(1), kind="view"), id="an event without an item"),
    ],
)
def test_not_part_of_what_is_known(left_out):
    rows = fold([event("u", "a", day(0)), left_out, event("u", "b", day(2))])

    assert [row["moment_id"] for row in rows] == ["u:1", "u:2"]


def test_events_that_the_state_knows_already_give_nothing():
    events = [event("u", "a", day(0)), event("u", "b", day(1))]

    assert len(fold(events, events)) == 2
    assert fold(events, [*events, event("u", "c", day(2))])[-1]["item_ids"] == ["a", "b", "c"]


def test_users_who_do_nothing_new_get_no_row():
    rows = fold([event("u", "a", day(0)), event("v", "a", day(0))], [event("v", "b", day(1))])

    assert [row["moment_id"] for row in rows] == ["u:1", "v:1", "v:2"]


def test_an_event_that_arrives_after_ten_years_gives_numbers_and_spoils_no_later_row():
    rows = fold([event("u", "a", day(0), arrived=day(3_650)), event("u", "b", day(3_651))])

    assert 0 < rows[0]["events_1d_decayed"] <= 1
    assert rows[1]["events_1d_decayed"] == pytest.approx(1)
    assert [row["purchases"] for row in rows] == [1, 2]


SECONDS = st.integers(0, 400 * DAY_S)
ONE = st.tuples(
    st.sampled_from("uv"),
    st.sampled_from(["a", "b", "c", None]),
    st.sampled_from([*HISTORY_EVENT_TYPES, "impression"]),
    SECONDS,
    st.one_of(st.just(0.0), st.sampled_from([0.25, 1.0, 90.0, 86_400.0 * 20])),
    st.one_of(st.none(), st.floats(0, 1000)),
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    drawn=st.lists(st.one_of(ONE, ONE.map(lambda one: (*one[:3], one[3] % 7, *one[4:]))), min_size=1, max_size=30),
    cuts=st.lists(SECONDS, max_size=4),
    length=st.sampled_from([1, 3, 50]),
)
def test_any_cut_into_calls_gives_the_rows_of_the_reference(drawn, cuts, length):
    events = [
        event(
            user,
            item,
            day(0) + timedelta(seconds=second),
            kind=kind,
            arrived=day(0) + timedelta(seconds=second + lateness),
            value=value,
            number=number,
        )
        for number, (user, item, kind, second, lateness, value) in enumerate(drawn)
    ]
    edges = [*sorted(day(0) + timedelta(seconds=cut) for cut in cuts), datetime.max.replace(tzinfo=day(0).tzinfo)]
    chunks, rest = [], events
    for edge in edges:
        chunks.append([one for one in rest if one["created_timestamp"] <= edge])
        rest = [one for one in rest if one["created_timestamp"] > edge]
    expected = reference(events, length)

    assert_same(fold(events, length=length), expected)
    assert_same(fold(*chunks, length=length), expected)


@pytest.mark.slow
def test_one_event_at_a_time_gives_the_rows_of_all_at_once():
    events = [event("u", f"i{n}", day(n % 7 + n / 50), kind="view", arrived=day(20 + n / 10)) for n in range(40)]

    assert_same(fold(*([one] for one in events), length=5), fold(events, length=5))
