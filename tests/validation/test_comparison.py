"""How far a window lies from the windows before, in numbers worked out by hand."""

import math
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from pipelines.config import ValidationConfig
from pipelines.sources.base import contract_query
from pipelines.validation.comparison import EarlierWindow, compare, distance, number_bins, value_bins
from pipelines.validation.profile import Profile, add, measure

DAY = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = ValidationConfig(compare_min_rows=100)


def profile(rows, *, purchases=0.5, missing=0, buckets=None):
    buys = round(rows * purchases)
    return Profile(
        rows=rows,
        nulls={"value": missing},
        numbers={"value": buckets or {1: rows - missing}},
        values={"event_type": {"purchase": buys, "view": rows - buys}},
    )


def windows(*profiles, group="events", hours=24):
    """Return one window a profile, the newest of which ends on DAY."""
    length = timedelta(hours=hours)
    ends = [DAY - place * length for place in reversed(range(len(profiles)))]
    return [EarlierWindow(end - length, end, {group: one}) for end, one in zip(ends, profiles, strict=True)]


def differences(now, earlier, *, config=CONFIG, hours=24, group="events"):
    found = compare({group: now}, earlier, config, since=DAY, until=DAY + timedelta(hours=hours))
    return {(one.kind, one.column): one for one in found}


def test_distance_of_equal_shares_is_zero_and_of_disjoint_ones_is_one():
    assert distance([10, 30], [100, 300]) == 0
    assert distance([10, 0], [0, 10]) == pytest.approx(1)


def test_distance_of_a_half():
    # M = (3/4, 1/4); the divergence is 1/2 log2(1 / (3/4)) + 1/2 (1/2 log2((1/2)/(3/4)) + 1/2 log2((1/2)/(1/4))).
    divergence = 0.5 * math.log2(4 / 3) + 0.5 * (0.5 * math.log2(2 / 3) + 0.5)
    assert distance([4, 0], [2, 2]) == pytest.approx(math.sqrt(divergence))


def test_bins_are_tenths_of_the_reference_and_what_lies_outside_it():
    reference = dict.fromkeys(range(1, 21), 5)
    found = {0: 1, 2: 1, 3: 7, 99: 2}
    assert number_bins(reference, found) == ([0, *[10] * 10, 0], [1, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 2])


def test_a_value_that_most_rows_have_is_a_bin_of_its_own():
    assert number_bins({0: 80, 5: 10, 6: 10}, {5: 3}) == ([0, 80, 10, 10, 0], [0, 0, 3, 0, 0])


def test_values_beyond_the_frequent_ones_are_the_rest():
    assert value_bins({"a": 6, "b": 3}, {"b": 5, "c": 5}, (10, 12)) == ([6, 3, 1], [0, 5, 7])


def test_first_window_is_compared_with_nothing():
    assert differences(profile(1000), []) == {}


@pytest.mark.parametrize(("rows", "before"), [(99, 1000), (1000, 99)])
def test_small_sides_are_not_compared(rows, before):
    assert differences(profile(rows), windows(profile(before))) == {}


def test_share_of_a_type_against_the_windows_before():
    found = differences(profile(1000, purchases=0.8), windows(profile(1000, purchases=0.4), profile(1000)))
    share = found["share", "purchase"]
    assert (share.found, share.reference) == (0.8, 0.45)
    assert (share.low_warn, share.high_warn, share.high_stop) == pytest.approx((0.35, 0.55, 0.95))
    assert share.sentence == ("events: `purchase` is the type of 80.0% of the rows, in the windows before 45.0%")


def test_only_the_newest_windows_are_the_reference():
    config = ValidationConfig(compare_min_rows=100, compare_windows=1)
    found = differences(profile(1000), windows(profile(1000, purchases=0.1), profile(1000)), config=config)
    assert found["share", "purchase"].reference == 0.5


def test_share_of_missing_values():
    found = differences(profile(1000, missing=300), windows(profile(1000, missing=100)))["nulls", "value"]
    assert (found.found, found.reference, found.name) == (0.3, 0.1, "nulls_events_value")


def test_drift_names_its_column():
    found = differences(profile(1000, buckets={1: 1000}), windows(profile(1000, buckets={1: 500, 9: 500})))
    drift = found["drift", "value"]
    # Against a half: the same number as above, with the sides exchanged.
    assert drift.found == pytest.approx(distance([4, 0], [2, 2]))
    assert drift.allowed(stops=True) == "0.50 at most"


def test_drift_needs_values_on_both_sides():
    found = differences(profile(1000, missing=950), windows(profile(1000)))
    assert ("drift", "value") not in found
    assert ("nulls", "value") in found


def test_volume_is_judged_from_the_fifth_window_on():
    usual = profile(1000)
    assert ("volume", "rows") not in differences(profile(9000), windows(usual, usual, usual))
    found = differences(profile(9000), windows(usual, usual, profile(5000), usual))["volume", "rows"]
    assert (found.found, found.reference) == (9000, 1000)
    assert (found.low_warn, found.high_warn) == pytest.approx((1000 / 3, 3000))


def test_volume_counts_rows_a_day_whatever_the_length():
    found = differences(profile(500), windows(*[profile(1000)] * 4), hours=12)["volume", "rows"]
    assert found.found == found.reference == 1000


def test_first_window_has_no_rate():
    first = EarlierWindow(None, DAY - timedelta(days=9), {"events": profile(10**6)})
    assert ("volume", "rows") not in differences(profile(1000), [first, *windows(*[profile(1000)] * 3)])


def test_small_window_is_warned_about_and_never_stops():
    found = differences(profile(3), windows(*[profile(1000)] * 4))["volume", "rows"]
    assert (found.low_stop, found.low_warn) == (None, pytest.approx(1000 / 3))


def test_events_of_the_service_are_compared_with_their_like():
    earlier = windows(profile(1000, purchases=1.0))
    assert differences(profile(1000, purchases=0.0), earlier, group="event_log") == {}


def test_profile_counts_what_is_there():
    rows = [
        {"event_type": "'view'", "value": "NULL", "item_id": "'a'", "source": "'sales.csv'"},
        {"event_type": "'purchase'", "value": "8", "item_id": "'a'", "source": "'sales.csv'"},
        {"event_type": "'purchase'", "value": "0", "item_id": "'b'", "source": "NULL"},
        {"event_type": "'purchase'", "value": "-8", "item_id": "'b'", "source": "'event_log'"},
    ]
    happened = {"event_timestamp": "TIMESTAMPTZ '2026-03-01 23:59:59+00'"}
    query = " UNION ALL ".join(contract_query("events", row | happened, "(SELECT 1)") for row in rows)
    with duckdb.connect() as connection:
        found = measure(connection, "events", f"({query})")
    assert set(found) == {"events", "event_log"}
    events = found["events"]
    assert (events.rows, events.nulls["value"], events.nulls["query"]) == (3, 1, 3)
    assert events.values == {"event_type": {"purchase": 2, "view": 1}, "item_id": {"a": 2, "b": 1}}
    assert events.numbers["value"] == {0: 1, 1112: 1}  # 1100 + 4 * log2(8)
    assert found["event_log"].numbers["value"] == {-1112: 1}
    assert events.days == {"2026-03-01": 3}
    assert Profile.from_json(events.to_json()) == events


def test_profiles_add_up():
    both = add([profile(10, missing=2, buckets={1: 8}), profile(20, buckets={1: 5, 2: 15})])
    assert (both.rows, both.nulls, both.numbers) == (30, {"value": 2}, {"value": {1: 13, 2: 15}})
    assert both.values == {"event_type": {"purchase": 15, "view": 15}}
    assert add([]) == Profile()
