"""Folders of a stranger: read as they are meant, or refused with a sentence."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from pipelines.benchmarks.folder import (
    read_items,
    read_recommend_folder,
    read_search_folder,
    smaller_recommend_folder,
    smaller_search_folder,
)
from pipelines.errors import DataError
from tests.toys.bench_folders import ITEM_IDS, write_interactions, write_items, write_judgements, write_table

EVENTS = [("u2", "c", 30), ("u1", "b", 20), ("u1", "a", 10)]


@pytest.fixture
def folder(tmp_path):
    return write_items(tmp_path / "shop")


def test_events_are_sorted_by_user_and_time(folder):
    write_interactions(folder, EVENTS, with_pos=False)
    read = read_recommend_folder(folder)
    assert read.name == "shop"
    assert read.user_ids == ["u1", "u2"]
    assert read.users.tolist() == [0, 0, 1]
    assert read.rows.tolist() == [0, 1, 2]
    assert read.times.tolist() == [10, 20, 30]
    assert read.positions is None
    assert read.event_types.tolist() == ["purchase"] * 3


def test_pos_decides_the_order_where_it_is_there(folder):
    write_interactions(folder, EVENTS)
    read = read_recommend_folder(folder)
    assert read.rows.tolist() == [1, 0, 2]  # b stands first in the file, though it came later
    assert read.positions.tolist() == [0, 1, 0]


def test_rows_with_one_time_are_one_basket(folder):
    write_interactions(folder, [("u", "a", 1), ("u", "b", 1), ("u", "c", 2), ("v", "a", 1)], with_pos=False)
    assert read_recommend_folder(folder).baskets.tolist() == [0, 0, 1, 2]


def test_basket_ids_make_the_baskets_where_they_are_there(folder):
    events = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3)]
    write_interactions(folder, events, with_pos=False, basket_id=[7, 7, 3])
    assert read_recommend_folder(folder).baskets.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(pa.array([1, 2], pa.int64()), id="seconds"),
        pytest.param(pa.array([1.0, 2.5], pa.float64()), id="parts of seconds"),
        pytest.param(
            pa.array([datetime.fromtimestamp(n, UTC) for n in (1, 2)], pa.timestamp("ms", "UTC")), id="timestamps"
        ),
        pytest.param(pa.array([1_000_000_001, 2_000_000_999], pa.timestamp("ns")), id="timestamps in nanoseconds"),
    ],
)
def test_times_may_be_seconds_or_timestamps(folder, times):
    write_interactions(folder, [("u", "a", 0), ("u", "b", 0)], with_pos=False, timestamp=times)
    assert read_recommend_folder(folder).times.tolist() == [1, 2]


def test_ids_may_be_numbers(tmp_path):
    folder = write_table(tmp_path, "items", {"item_id": [10, 20], "title": ["x", "y"]})
    write_table(folder, "interactions", {"user_id": [1], "item_id": [20], "timestamp": [5]})
    assert read_recommend_folder(folder).rows.tolist() == [1]


def test_what_an_item_does_not_have_is_empty(tmp_path):
    columns = {"item_id": ["a", "b"], "title": ["tea", None], "price": [2.5, None], "description": ["hot", None]}
    items = read_items(write_table(tmp_path, "items", columns))
    assert items.titles == ["tea", ""]
    assert items.texts == ["tea. hot", ""]
    assert items.brands == items.categories == items.images == ["", ""]
    np.testing.assert_array_equal(items.prices, [2.5, np.nan])


def test_judgements_are_sorted_by_query(folder):
    write_judgements(folder, [("tea", "b", 3), ("pot", "c", 1), ("tea", "a", 2)])
    read = read_search_folder(folder)
    assert read.queries == ["pot", "tea"]
    assert read.query_numbers.tolist() == [0, 1, 1]
    assert read.rows.tolist() == [2, 0, 1]
    assert read.grades.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        pytest.param({"item_id": ["a"]}, "lacks the column title (found: item_id)", id="no title column"),
        pytest.param({"item_id": ["a", "a"], "title": ["x", "y"]}, "`item_id` more than once, such as a", id="twice"),
        pytest.param({"item_id": ["a", None], "title": ["x", "y"]}, "`item_id` is missing in 1 row", id="id missing"),
        pytest.param({"item_id": [1.5], "title": ["x"]}, "has the type double: texts or whole", id="id is a fraction"),
        pytest.param({"item_id": ["a"], "title": [" "]}, "No item in", id="no text at all"),
        pytest.param({"item_id": ["a"], "title": ["x"], "price": ["dear"]}, "`price` of", id="price is not a number"),
        pytest.param(
            {"item_id": ["a"], "title": ["x"], "category": [["tea"]]}, "`category` of", id="category is a list"
        ),
        pytest.param(
            {"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string())}, "has no rows", id="empty"
        ),
    ],
)
def test_unusable_items_are_named(tmp_path, columns, said):
    with pytest.raises(DataError, match=r"items\.parquet") as error:
        read_items(write_table(tmp_path, "items", columns))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        pytest.param({"item_id": ["a", "zz"]}, "not in items.parquet in 1 row (first at 1)", id="unknown item"),
        pytest.param({"user_id": ["u", None]}, "`user_id` is missing in 1 row (first at 1)", id="no user"),
        pytest.param({"timestamp": ["monday", "today"]}, "`timestamp` of", id="time is a text"),
        pytest.param({"timestamp": [1, None]}, "`timestamp` is missing in 1 row", id="no time"),
        pytest.param({"timestamp": [1.7e12, 1.7e12]}, "divide milliseconds by 1,000", id="milliseconds"),
        pytest.param({"timestamp": [1_700_000_000 * 10**9 + 1] * 2}, "nanoseconds by 1,000,000,000", id="nanoseconds"),
        pytest.param({"timestamp": [5, -1]}, "before the year 1970 in 1 row (first at 1)", id="before 1970"),
        pytest.param(
            {"timestamp": pa.array([datetime(1969, 7, 20, tzinfo=UTC)] * 2, pa.timestamp("ms", "UTC"))},
            "before the year 1970 in 2 rows (first at 0, 1)",
            id="before 1970 by timestamp",
        ),
        pytest.param({"event_type": [["buy"], ["view"]]}, "`event_type` of", id="event type is a list"),
        pytest.param({"pos": [0, 0]}, "`pos` of", id="a place twice"),
        pytest.param({"pos": [0.5, 1]}, "`pos` is not a whole number in 1 row", id="a place between places"),
        pytest.param({"pos": [0, 2**60 + 1]}, "or one beyond 2^53", id="a place beyond all places"),
    ],
)
def test_unusable_interactions_are_named(folder, columns, said):
    write_table(folder, "interactions", {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1, 2], **columns})
    with pytest.raises(DataError) as error:
        read_recommend_folder(folder)
    assert said in str(error.value)
    assert "interactions.parquet" in str(error.value)


@pytest.mark.parametrize(
    ("judgements", "said"),
    [
        pytest.param([("q", "a", float("nan"))], "`grade` is not a number in 1 row (first at 0)", id="NaN"),
        pytest.param([("q", "a", 1.0), ("q", "a", 2.0)], "judges 1 pair", id="judged twice"),
        pytest.param([("q", "zz", 1.0)], "such as zz", id="unknown item"),
        pytest.param([("", "a", 1.0)], "`query` is missing in 1 row", id="no query"),
    ],
)
def test_unusable_judgements_are_named(folder, judgements, said):
    write_judgements(folder, judgements)
    with pytest.raises(DataError) as error:
        read_search_folder(folder)
    assert said in str(error.value)


def test_a_folder_without_files_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"found: no Parquet file.*docs/benchmarks\.md"):
        read_recommend_folder(tmp_path / "nowhere")


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "items.parquet").write_text("item_id,title\n")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_items(tmp_path)


def test_rows_mean_the_order_of_the_items_file(folder):
    assert read_items(folder).item_ids == ITEM_IDS


def events_of(read):
    ids = read.items.item_ids
    return [
        (read.user_ids[user], ids[row], time) for user, row, time in zip(read.users, read.rows, read.times, strict=True)
    ]


def test_a_sample_keeps_whole_users_and_what_they_touched(folder):
    events = [(f"u{user}", "abcde"[(user + step) % 3], step) for user in range(5) for step in range(3)]
    read = read_recommend_folder(write_interactions(folder, events))
    sample = smaller_recommend_folder(read, users=2, items=4)
    assert sample.user_ids == ["u0", "u4"]
    assert events_of(sample) == [event for event in events_of(read) if event[0] in ("u0", "u4")]
    assert sample.items.item_ids == ["a", "b", "c", "d"]  # d was touched by nobody and fills up
    assert sample.baskets.tolist() == list(range(6))


def test_a_sample_of_little_is_all_of_it(folder):
    read = read_recommend_folder(write_interactions(folder, EVENTS))
    sample = smaller_recommend_folder(read)
    assert events_of(sample) == events_of(read)
    assert sample.items.item_ids == ITEM_IDS


def test_a_sample_keeps_whole_queries(folder):
    read = read_search_folder(write_judgements(folder, [("p", "a", 1), ("q", "b", 2), ("r", "e", 3), ("r", "c", 1)]))
    sample = smaller_search_folder(read, queries=2, items=3)
    assert sample.queries == ["p", "r"]
    assert [sample.items.item_ids[row] for row in sample.rows] == ["a", "c", "e"]
    assert sample.grades.tolist() == [1, 1, 3]


def read_with_types(folder, *event_types):
    events = [("u", "abcde"[place % 5], place) for place in range(len(event_types))]
    return read_recommend_folder(write_interactions(folder, events, event_type=pa.array(event_types)))


def test_event_types_are_read_in_the_words_of_a_shop(folder):
    read = read_with_types(folder, "Add to Cart", "BUY", "page-view", "transaction", " click ", "review", None, "")
    assert read.event_types.tolist() == [
        *("cart", "purchase", "view", "purchase", "click", "rating", "purchase", "purchase")
    ]  # fmt: skip
    assert read.notes == ()


def test_words_that_nobody_knows_count_as_a_purchase_and_are_named(folder):
    read = read_with_types(folder, "foo", "view", "foo", "bar")
    assert read.event_types.tolist() == ["purchase", "view", "purchase", "purchase"]
    assert read.notes == ("Event types that we have no word for count as purchase: foo (2 events), bar (1 event).",)
    [note] = read_with_types(folder, 3, 1, 3).notes
    assert note.endswith("as purchase: 3 (2 events), 1 (1 event).")
    [note] = read_with_types(folder, *"abcdefg").notes
    assert note.endswith("e (1 event), 2 other words (2 events).")


def test_impressions_and_searches_are_no_interactions(folder):
    table = {
        "user_id": ["u", "v", "u", "u", "w"],
        "item_id": ["a", None, "b", "c", "d"],
        "timestamp": [1, 2, 3, 4, 5],
        "event_type": ["view", "query", "Impressions", "purchase", "impression"],
    }
    read = read_recommend_folder(write_table(folder, "interactions", table))
    assert read.user_ids == ["u"]
    assert read.rows.tolist() == [0, 2]
    assert read.event_types.tolist() == ["view", "purchase"]
    assert read.notes == (
        "Left out, for they are no interactions with an item: Impressions (1 event), impression (1 event), "
        "query (1 event).",
    )
    assert smaller_recommend_folder(read).notes == read.notes
    write_table(folder, "interactions", {**table, "item_id": ["a", None, "b", None, "d"]})
    with pytest.raises(DataError, match=r"in 1 row \(first at 1\) of .* without its impressions and searches"):
        read_recommend_folder(folder)
    write_table(folder, "interactions", {**table, "event_type": ["search"] * 5})
    with pytest.raises(DataError, match="without its impressions and searches has no rows"):
        read_recommend_folder(folder)
