"""What the service adds to the fold: events that come twice, too early, or overtake each other."""

from datetime import timedelta

import pytest

from pipelines.config import PreparationConfig
from pipelines.features.user_state import USER_ROWS
from pipelines.stores.user_fold import UserFold, blank_row
from tests.toys.event_tables import day, event

A, B = event("u", "a", day(1)), event("u", "b", day(2), kind="view")
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def fold() -> UserFold:
    return UserFold()


def after(fold: UserFold, *calls: list[dict]) -> dict | None:
    """Return the row of `u` after some calls."""
    state = None
    for events in calls:
        for row in fold.add({"u": state} if state else {}, events):
            state = row
    return state


def test_one_call_and_two_calls_end_in_the_same_row(fold):
    assert after(fold, [A, B]) == after(fold, [A], [B])
    assert after(fold, [A, B])["item_ids"] == ["a", "b"]


def test_calls_that_overtook_each_other_end_in_the_same_row(fold):
    overtaken, in_order = after(fold, [B], [A]), after(fold, [A], [B])

    assert overtaken.keys() == in_order.keys()
    for name, value in in_order.items():
        assert overtaken[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


def test_a_call_that_is_repeated_changes_nothing(fold):
    assert fold.add({"u": after(fold, [A, B])}, [A, B]) == []
    assert after(fold, [A, A])["n_events"] == 1


def test_two_lines_of_one_call_with_the_same_item_count_twice(fold):
    again = {**A, "event_id": "another line"}

    assert after(fold, [A, again])["purchases"] == 2
    assert after(fold, [A], [again])["purchases"] == 1  # a client that sends again


@pytest.mark.parametrize(
    ("kind", "gap", "views"),
    [
        pytest.param("view", 2 * SECOND, 1, id="a view within two seconds is a repeat"),
        pytest.param("view", 3 * SECOND, 2, id="a later one is not"),
        pytest.param("purchase", 2 * SECOND, 2, id="nor is a purchase"),
    ],
)
def test_repeats_are_passed_over_as_ingestion_passes_over_them(kind, gap, views):
    fold = UserFold(preparation=PreparationConfig(repeat_gap_s=2))
    first = event("u", "a", day(1), kind=kind)
    second = event("u", "a", day(1) + gap, kind=kind)

    assert after(fold, [first, second])["n_events"] == views
    assert after(fold, [first], [second])["n_events"] == views


def test_many_users_in_one_call_do_not_mix(fold):
    events = [event(f"u{number}", f"item-{number}", day(1)) for number in range(300)]

    rows = {row["user_id"]: row for row in fold.add({}, events)}

    assert {user: row["item_ids"] for user, row in rows.items()} == {
        f"u{number}": [f"item-{number}"] for number in range(300)
    }


def test_a_blank_row_has_every_column():
    assert set(blank_row("u")) == set(USER_ROWS.names)
    assert blank_row("u")["item_ids"] == [] and blank_row("u")["n_events"] == 0
