"""Ranks, lists and the metrics of whole blocks."""

from dataclasses import dataclass

import numpy as np
import pytest

from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.ranked import RankedRows, joined_rows, rank_rows, row_metrics, row_numbers, top_items


@dataclass
class Asked:
    targets: list
    new_targets: list
    seen: list

    def __len__(self):
        return len(self.targets)


def asked(*rows):
    """Return rows of (targets, seen); what was not seen is new."""
    return Asked(
        [np.asarray(targets) for targets, _ in rows],
        [np.setdiff1d(targets, seen) for targets, seen in rows],
        [np.asarray(seen, np.int64) for _, seen in rows],
    )


def test_seen_items_count_in_one_table_only():
    ranked = rank_rows(asked(([1, 3], [0, 3])), np.asarray([[9.0, 5, 7, 8]], np.float32))
    assert ranked.every.tolist() == [4, 2]
    assert ranked.new.tolist() == [2]  # item 1, behind item 2; items 0 and 3 were seen
    assert ranked.top[0].tolist() == [2, 1] + [-1] * 8


def test_ranks_of_new_targets_are_in_their_own_order():
    rows = Asked([np.asarray([3, 0, 2])], [np.asarray([2, 3])], [np.asarray([0])])
    assert rank_rows(rows, np.asarray([[9.0, 1, 5, 7]], np.float32)).new.tolist() == [2, 1]


def test_lists_are_sorted_and_ties_are_in_catalogue_order():
    scores = np.asarray([[1, 3, 2, 3, 2, 2]], np.float32)
    assert top_items(scores, 4).tolist() == [[1, 3, 2, 4]]


def test_lists_never_show_what_has_no_score():
    assert top_items(np.asarray([[-np.inf, 1, -np.inf]], np.float32), 2).tolist() == [[1, -1]]


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_a_block_are_those_of_its_rows(seed):
    rng = np.random.default_rng(seed)
    targets = [rng.integers(1, 150, rng.integers(0, 15)) for _ in range(30)]
    block = row_metrics(np.concatenate(targets), row_numbers(targets), 30)
    for name, metric in METRICS.items():
        expected = [metric(ranks) if len(ranks) else np.nan for ranks in targets]
        np.testing.assert_allclose(block[name], expected, err_msg=name)


def test_blocks_join_in_order():
    one = RankedRows(np.asarray([1]), np.asarray([2, 3]), np.asarray([[0, -1]], np.int32))
    two = RankedRows(np.asarray([4, 5]), np.asarray([6]), np.asarray([[1, 2]], np.int32))
    joined = joined_rows([one, two])
    assert joined.new.tolist() == [1, 4, 5]
    assert joined.every.tolist() == [2, 3, 6]
    assert joined.top.tolist() == [[0, -1], [1, 2]]
