"""Rows of the ranker over the toy bundle, worked out by hand."""

import numpy as np
import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.progress import SilentProgress
from pipelines.training.ranker_rows import collect_ranker_rows
from tests.toys.toy_bundle import User, bought, write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    write_toy_bundle(folder)
    return load_bundle(folder)


def rows_of(bundle, users, targets, **options):
    return collect_ranker_rows(
        bundle,
        users,
        np.arange(len(users), 0, -1, dtype=np.float64) * 86_400,  # the last one is the oldest
        [f"user {number}" for number in range(len(users))],
        [np.array(part, np.int64) for part in targets],
        [bundle.rows_of(user.item_ids) for user in users],
        progress=SilentProgress(),
        **options,
    )


def test_candidates_that_were_taken_and_new_ones_are_marked(bundle):
    rows = rows_of(bundle, [bought("a")], [[0, 1]], clicked=[np.array([3])], per_generator=2)
    assert rows.offsets.tolist() == [0, 3]  # a (dense, repeat), b (dense, neighbor), d (neighbor)
    assert rows.purchased.tolist() == [True, True, False]
    assert rows.clicked.tolist() == [False, False, True]
    assert rows.new.tolist() == [False, True, True]
    assert rows.n_targets.tolist() == [1]
    assert rows.useful().tolist() == [True]


def test_rows_are_in_the_order_of_time_and_users_without_a_known_item_are_left_out(bundle):
    rows = rows_of(bundle, [bought("a"), User(), bought("c")], [[1], [1], [5]])
    assert len(rows) == 2
    assert rows.n_targets.tolist() == [1, 1]
    assert rows.useful().tolist() == [False, True]  # f, the target of the older row, is not available
    assert rows.users.tolist() == [1, 0]


def test_at_most_so_many_rows_spread_evenly(bundle):
    assert len(rows_of(bundle, [bought("a")] * 10, [[1]] * 10, max_rows=3)) == 3


def test_nobody_is_known(bundle):
    rows = rows_of(bundle, [User()], [[1]])
    assert len(rows) == 0
    assert rows.useful().tolist() == []
