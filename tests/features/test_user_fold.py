"""The fold in Python gives what the SQL gives: the same rows, to the last bits of a sum."""

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.features.user_fold import user_rows
from pipelines.features.user_state import USER_ROWS, user_rows_sql
from pipelines.stores.sql import open_duckdb
from tests.toys.event_tables import day, event, events_table

KINDS = ("view", "click", "cart", "purchase", "rating", "impression", "search")


@pytest.fixture(scope="module")
def connection():
    with open_duckdb() as connection:
        connection.execute("SET threads = 1")
        yield connection


def by_sql(connection: Any, states: list[dict], events: list[dict], length: int) -> dict[str, list[dict]]:
    connection.register("events", events_table(events))
    connection.register("state", pa.Table.from_pylist(states, schema=USER_ROWS))
    rows = connection.sql(user_rows_sql(history_length=length)).to_arrow_table().to_pylist()
    found: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["arrived_at_us"]):
        found.setdefault(row["user_id"], []).append(row)
    return found


def by_python(states: dict[str, dict], events: list[dict], length: int) -> dict[str, list[dict]]:
    users = {one["user_id"] for one in events}
    rows = {user: user_rows(states.get(user), [e for e in events if e["user_id"] == user], length) for user in users}
    return {user: of_user for user, of_user in rows.items() if of_user}


def assert_equal(found: dict[str, list[dict]], expected: dict[str, list[dict]]) -> None:
    assert found.keys() == expected.keys()
    for user, rows in expected.items():
        assert len(found[user]) == len(rows)
        for one, other in zip(found[user], rows, strict=True):
            assert list(one) == USER_ROWS.names
            for name, value in other.items():
                expected_value = pytest.approx(value, rel=1e-9, abs=1e-300) if isinstance(value, float) else value
                assert one[name] == expected_value, name


@st.composite
def streams(draw, users: str, first_arrival_day: int) -> list[list[dict[str, Any]]]:
    """Calls of events, each of one arrival or of a few, that tie, repeat, come late and fall out of the history."""
    happened = st.one_of(
        st.integers(0, 6).map(lambda half: timedelta(seconds=half / 2)),
        st.integers(0, 3).map(lambda days: timedelta(days=days)),
        st.sampled_from([timedelta(days=first_arrival_day - 100), timedelta(microseconds=1)]),
    )
    one = st.tuples(
        st.sampled_from(users),
        st.sampled_from(["a", "b", "é"]),
        happened,
        st.sampled_from(KINDS),
        st.sampled_from([None, 0.0, 2.5, 1e6]),
        st.sampled_from([timedelta(0), timedelta(0), timedelta(microseconds=1), timedelta(days=3)]),
        st.booleans(),
    )
    calls, number, arrived = [], 0, day(first_arrival_day)
    for drawn in draw(st.lists(st.lists(one, max_size=8), min_size=1, max_size=3)):
        arrived += timedelta(seconds=draw(st.integers(0, 1)))
        call = []
        for user, item, after, kind, value, pause, ties in drawn:
            arrived += pause
            number += 1
            item = None if kind == "search" else item
            told = event(user, item, day(0) + after, kind=kind, arrived=arrived, value=value)
            call.append({**told, "event_id": "tie" if ties else f"e{number}"})
        calls.append(call)
    return calls


def compare(connection: Any, calls: list[list[dict[str, Any]]], length: int) -> None:
    states: dict[str, dict] = {}
    for call in calls:
        expected = by_sql(connection, list(states.values()), call, length)
        assert_equal(by_python(states, call, length), expected)
        assert_equal(by_python(states, call[::-1], length), expected)
        states |= {user: rows[-1] for user, rows in expected.items()}


LENGTHS = st.sampled_from([1, 2, 3, 50])
SEVERAL = streams("uvwxyz", 500)
ALONE = streams("u", 2_600)
"""Beyond MAX_SPAN_DAYS, where the weight of what is older than that depends on what else is in a call of the SQL."""


@settings(max_examples=5, deadline=None)
@given(calls=SEVERAL, length=LENGTHS)
def test_python_and_sql_give_the_same_rows(connection, calls, length):
    compare(connection, calls, length)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(calls=st.one_of(SEVERAL, ALONE), length=LENGTHS)
def test_python_and_sql_give_the_same_rows_over_any_stream(connection, calls, length):
    compare(connection, calls, length)


def test_what_arrived_by_the_state_is_passed_over():
    [state] = user_rows(None, [event("u", "a", day(1), arrived=day(2))])
    assert user_rows(state, [event("u", "b", day(1.5), arrived=day(2))]) == []
