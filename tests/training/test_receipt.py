"""What a run has read, and windows that were read before."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import DataError
from pipelines.schemas import TrainingSet
from pipelines.training.receipt import (
    RECEIPT,
    WindowReadError,
    find_receipt,
    make_receipt,
    read_rows_again,
    refuse_window_read,
)
from tests.toys.event_tables import day

ROWS = [
    ("train", "u", 1, ["a"], [], True),
    ("old", "u", 2, ["z"], [], False),
    ("train", "v", 3, ["b"], ["a"], True),
    ("train", "u", 7, ["c"], ["a"], False),
    ("train", "w", 8, ["a", "b"], [], False),
    ("train", "u", 9, ["d"], ["a", "c"], False),
    ("validation", "u", 11, ["e"], ["a", "c", "d"], False),
]


def training_set(folder, run: str = "r2", rows=ROWS, since: float = 6, until: float = 10) -> TrainingSet:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("row_id", "split", "user_id", "as_of", "target_item_ids", "history_item_ids", "replayed")
    columns = {
        name: [(place, row[0], row[1], day(row[2]), *row[3:])[number] for place, row in enumerate(rows)]
        for number, name in enumerate(names)
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return TrainingSet(
        run=run,
        folder=folder,
        fingerprint="f",
        champion=None,
        rows={"train": 5, "validation": 1, "test": 1, "old": 1},
        since=day(since),
        validation_start=day(until),
        test_start=day(until + 2),
        test_end=day(until + 4),
    )


def test_rows_read_are_counted_new_and_replayed(tmp_path):
    read = read_rows_again(training_set(tmp_path).folder)
    assert (read.new_rows, read.replayed_rows) == (3, 2)
    assert (read.first, read.last) == (day(7), day(9))
    assert (read.replayed_first, read.replayed_last) == (day(1), day(3))


@pytest.mark.parametrize(
    ("place", "row", "same"),
    [
        pytest.param(6, ("validation", "u", 11, ["other"], [], False), True, id="what was not trained on"),
        pytest.param(3, ("train", "u", 7, ["other"], ["a"], False), False, id="a basket"),
        pytest.param(3, ("train", "u", 7, ["c"], ["b"], False), False, id="a history"),
        pytest.param(3, ("train", "u", 7.5, ["c"], ["a"], False), False, id="a moment"),
    ],
)
def test_the_fingerprint_is_of_what_was_read(tmp_path, place, row, same):
    before = read_rows_again(training_set(tmp_path / "one").folder).fingerprint
    changed = [*ROWS[:place], row, *ROWS[place + 1 :]]
    assert (read_rows_again(training_set(tmp_path / "two", rows=changed).folder).fingerprint == before) is same


def test_receipts_form_a_chain_in_which_each_window_begins_where_the_last_one_ended(tmp_path):
    first = make_receipt(training_set(tmp_path / "1", "r1", since=0, until=6), None, {})
    second = make_receipt(training_set(tmp_path / "2", "r2"), first, {"old": {"ndcg@10": 0.25}})

    assert (first.generation, first.parent) == (0, None)
    assert second.generation == 1
    assert second.parent == first.summary()
    assert second.parent.fingerprint == first.read.fingerprint
    assert second.since == first.until == day(6)
    assert second.until == day(10)
    assert second.replay_share == 2 / 5
    assert second.flat_metrics() == {
        "receipt.old.ndcg@10": 0.25,
        "receipt.new_rows": 3,
        "receipt.replayed_rows": 2,
        "receipt.generation": 1,
    }


def test_a_receipt_comes_back_from_disk_as_it_was(tmp_path):
    receipt = make_receipt(training_set(tmp_path / "1"), None, {})
    assert find_receipt(tmp_path) is None
    (tmp_path / RECEIPT).write_text(receipt.model_dump_json())
    assert find_receipt(tmp_path) == receipt
    (tmp_path / RECEIPT).write_text('{"run": 1}')
    with pytest.raises(DataError, match=r"is not the receipt of a training run .*--from-scratch"):
        find_receipt(tmp_path)


@pytest.mark.parametrize(
    ("until", "tables_until", "sentence", "is_twice"),
    [
        pytest.param(10, 14, "2026-01-02 to 2026-01-11 would be read a second time: model r2", True, id="twice"),
        pytest.param(9, 14, "2026-01-02 to 2026-01-10 would be read a second time", True, id="validation grew back"),
        pytest.param(9, 13, "2026-01-02 to 2026-01-10 is an old one: .* these end at 2026-01-14", False, id="old"),
    ],
)
def test_a_window_that_was_read_is_refused(tmp_path, until, tables_until, sentence, is_twice):
    receipt = make_receipt(training_set(tmp_path), None, {})
    with pytest.raises(WindowReadError, match=sentence) as refused:
        refuse_window_read(day(1), day(until), day(tables_until), receipt)
    assert "model r2 has read everything up to 2026-01-11 00:00 (its receipt)" in str(refused.value)
    assert refused.value.is_twice is is_twice
    refuse_window_read(day(1), day(11), day(15), receipt)
