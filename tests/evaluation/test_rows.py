"""Reading the frozen rows of a training set."""

import pytest

from pipelines.errors import DataError
from pipelines.evaluation.rows import read_rows
from tests.toys.evaluation_rows import row, write_rows

CATALOGUE = ["a", "b", "c", "d"]


def test_items_become_row_numbers_of_the_catalogue(tmp_path):
    write_rows(tmp_path, [row(7, "ann", history=["b", "gone", "c"], targets=["d", "gone"], new=["d"], seen=["c", "b"])])
    rows = read_rows(tmp_path, "test", CATALOGUE)
    assert rows.clicked[0].tolist() == []
    assert rows.user_ids.tolist() == ["ann"]
    assert rows.histories[0].tolist() == [1, -1, 2]
    assert rows.targets[0].tolist() == [3, -1]
    assert rows.new_targets[0].tolist() == [3]
    assert rows.seen[0].tolist() == [1, 2]
    assert rows.features[0].item_ids == ["b", "gone", "c"]
    assert rows.features[0].activity == {"events_28d_decayed": 3.0}
    assert rows.now_s.tolist() == [rows.as_of[0].timestamp()]


def test_only_rows_of_the_split_are_read_in_the_order_of_their_ids(tmp_path):
    write_rows(tmp_path, [row(2, "bob"), row(1, "ann"), row(3, "cid", split="validation")])
    assert read_rows(tmp_path, "test", CATALOGUE).user_ids.tolist() == ["ann", "bob"]


def test_a_user_without_a_known_item_is_cold(tmp_path):
    write_rows(tmp_path, [row(1, "ann", history=["a"]), row(2, "bob", history=["gone"]), row(3, "cid", history=[])])
    assert read_rows(tmp_path, "test", CATALOGUE).cold.tolist() == [False, True, True]


def test_the_fingerprint_is_that_of_the_rows_not_of_the_catalogue(tmp_path):
    write_rows(tmp_path / "one", [row(1, "ann", targets=["a"])])
    write_rows(tmp_path / "two", [row(1, "ann", targets=["b"])])
    one, two = (read_rows(tmp_path / name, "test", CATALOGUE).fingerprint for name in ("one", "two"))
    assert one != two
    assert one == read_rows(tmp_path / "one", "test", CATALOGUE[::-1]).fingerprint


def test_a_split_without_rows_names_the_setting(tmp_path):
    write_rows(tmp_path, [row(1, "ann", split="validation")])
    with pytest.raises(DataError, match=r"has no test rows.*training_set.test_days.*build_training_set"):
        read_rows(tmp_path, "test", CATALOGUE)


def test_a_row_without_what_was_seen_is_named(tmp_path):
    write_rows(tmp_path, [row(1, "ann"), row(5, "bob", seen=None)])
    with pytest.raises(DataError, match=r"lacks 1 of 2 test rows, first at row_id 5"):
        read_rows(tmp_path, "test", CATALOGUE)
