"""Neighbor tables, worked out by hand."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.retrieval.neighbors import (
    NeighborTable,
    best_of_links,
    load_tables,
    save_tables,
    stacked,
)


@pytest.fixture
def table() -> NeighborTable:
    return NeighborTable.from_padded(
        np.array([[1, 2], [2, -1], [-1, -1]], np.int32), np.array([[0.5, 0.25], [1.0, 0], [0, 0]], np.float32)
    )


def test_padding_disappears(table):
    assert table.offsets.tolist() == [0, 2, 3, 3]
    assert [part.tolist() for part in table.of(0)] == [[1, 2], [0.5, 0.25]]
    assert [part.tolist() for part in table.of(2)] == [[], []]


def test_links_keep_the_best_ties_by_row_number():
    rows, ids = np.array([1, 0, 0, 0]), np.array([0, 3, 2, 1])
    kept = best_of_links(rows, ids, np.array([0.1, 0.5, 0.5, 0.2], np.float32), 4, 2)
    assert kept.of(0)[0].tolist() == [2, 3]
    assert kept.of(1)[0].tolist() == [0]
    assert len(kept) == 4


def test_blocks_of_items_stand_one_after_the_other(table):
    both = stacked([table, table])
    assert both.offsets.tolist() == [0, 2, 3, 3, 5, 6, 6]
    assert both.of(3)[0].tolist() == [1, 2]


def test_tables_are_read_as_they_were_written(table, tmp_path):
    save_tables(tmp_path, {"one": table, "none": NeighborTable.empty(3)})
    found = load_tables(tmp_path)
    assert sorted(found) == ["none", "one"]
    assert found["one"].ids.tolist() == table.ids.tolist()
    assert found["one"].scores.tolist() == table.scores.tolist()


@pytest.mark.parametrize("n_items", [65_536, 65_537, 300_000])
def test_row_numbers_above_sixteen_bits_come_back_exactly(tmp_path, n_items):
    ids = np.array([0, 65_535, n_items - 1, n_items // 2], np.int32)
    table = NeighborTable(np.append(0, np.full(n_items, 4)), ids, np.array([8, 4, 2, 1], np.float32))
    table.save(tmp_path / "one")
    assert NeighborTable.load(tmp_path / "one").ids.tolist() == ids.tolist()


def test_scores_over_four_powers_of_ten_are_off_by_two_in_a_hundred(tmp_path):
    scores = np.geomspace(1e-2, 1e2, 1_000).astype(np.float32)[::-1]
    NeighborTable(np.array([0, 1_000]), np.zeros(1_000, np.int32), scores).save(tmp_path / "one")
    found = NeighborTable.load(tmp_path / "one").scores
    np.testing.assert_allclose(found, scores, rtol=0.02)
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("score", [0.0, -1.0, np.nan, np.inf])
def test_scores_that_are_no_number_above_zero_are_not_written(tmp_path, score):
    table = NeighborTable(np.array([0, 1]), np.zeros(1, np.int32), np.array([score], np.float32))
    with pytest.raises(DataError, match="must be a number above 0"):
        table.save(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        pytest.param("ids", np.array([1, 2, 3], np.uint16), "items that do not exist", id="an item too many"),
        pytest.param("ids", np.array([1, 2], np.uint16), "2 ids and 3 scores", id="a link short"),
        pytest.param("counts", np.array([2, 2, 0], np.uint16), "for 4 links", id="a count too high"),
        pytest.param("levels", np.array([1, 1, np.nan], np.float32), "not finite", id="NaN"),
        pytest.param("levels", np.array([1], np.float32), "levels are missing", id="a level short"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(table, tmp_path, name, values, problem):
    table.save(tmp_path / "one")
    np.save(tmp_path / "one" / f"{name}.npy", values)
    with pytest.raises(DataError, match=problem):
        NeighborTable.load(tmp_path / "one")
