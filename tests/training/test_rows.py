"""Training rows that nothing can be learnt from, and numbers that are none: a sentence each."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.training.catalog import Catalog
from pipelines.training.rows import learnable_rows, load_rows, refuse_rows_without_positives
from tests.toys.catalogue import toy_catalogue
from tests.toys.training_set import toy_rows, write_training_set


@pytest.fixture(scope="module")
def catalog():
    items = toy_catalogue().items
    titles, nothing, zeros = items["title"].to_pylist(), np.zeros(60, np.int64), np.zeros(60, np.float32)
    return Catalog(items["item_id"].to_pylist(), titles, titles, [""], nothing, [""], nothing, zeros, zeros, zeros)


@pytest.fixture(scope="module")
def rows():
    return toy_rows()


def loaded(folder, rows, catalog, split="train"):
    write_training_set(folder / "run", rows)
    return load_rows(folder / "run", split, catalog)


def test_first_basket_of_a_user_has_no_history_to_learn_from(tmp_path, rows, catalog):
    train = loaded(tmp_path, rows, catalog)
    assert len(train) == 30 * 11
    assert len(learnable_rows(train)) == 30 * 10


def test_unknown_is_null_and_counts_as_zero(tmp_path, rows, catalog):
    train = loaded(tmp_path, [{**row, "views": None} for row in rows], catalog)
    assert (train.activity[:, 0] == 0).all()
    assert (train.activity[learnable_rows(train), 1] > 0).all()


@pytest.mark.parametrize(("value", "split"), [(float("nan"), "train"), (float("inf"), "validation")])
def test_number_that_is_none_stops_with_its_column_and_rows(tmp_path, rows, catalog, value, split):
    places = [row["row_id"] for row in rows if row["split"] == split][5:9]
    broken = [{**row, "carts": value} if row["row_id"] in places else row for row in rows]
    first = ", ".join(map(str, places[:3]))
    with pytest.raises(DataError, match=rf"`carts` is NaN or infinite in 4 {split} rows, first at row_id {first}:"):
        loaded(tmp_path, broken, catalog, split)


def test_of_a_long_history_the_newest_known_events_are_kept(tmp_path, rows, catalog):
    items = [f"{'gone' if place == 70 else catalog.item_ids[place % 60]}" for place in range(80)]
    long = {
        "history_item_ids": items,
        "history_event_types": ["view"] * 79 + ["cart"],
        "history_times": list(range(80)),
    }
    train = loaded(tmp_path, [{**row, **(long if row["row_id"] == 0 else {})} for row in rows], catalog)
    found, types, times = train.histories[0]
    assert times.tolist() == [place for place in range(29, 80) if place != 70]
    assert found.tolist() == [place % 60 for place in range(29, 80) if place != 70]
    assert types == ["view"] * 49 + ["cart"]


NO_HISTORY = {"history_item_ids": [], "history_event_types": [], "history_times": []}


@pytest.mark.parametrize(
    ("changes", "lack"),
    [
        pytest.param(
            NO_HISTORY, "330 have no history, as of users with a single event or basket, and 0", id="one event"
        ),
        pytest.param(
            {"new_item_ids": []}, "30 have no history, .* and 300 hold no item that is new", id="no positives"
        ),
        pytest.param({"target_item_ids": None, "new_item_ids": None}, ".*and 300 hold no item", id="no baskets"),
    ],
)
def test_window_that_nothing_can_be_learnt_from_is_refused(tmp_path, rows, catalog, changes, lack):
    train = loaded(tmp_path, [row | changes for row in rows], catalog)
    with pytest.raises(DataError, match=rf"None of the 330 training rows can be learnt from: {lack}.*window_days"):
        learnable_rows(train)


def test_validation_window_without_positives_is_refused(tmp_path, rows, catalog):
    validation = loaded(tmp_path, rows, catalog, "validation")
    refuse_rows_without_positives(validation, "validation")
    nothing = loaded(tmp_path / "b", [row | {"new_item_ids": []} for row in rows], catalog, "validation")
    with pytest.raises(
        DataError, match=r"None of the 60 rows of the validation window .*training_set\.validation_days"
    ):
        refuse_rows_without_positives(nothing, "validation")
