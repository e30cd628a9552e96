"""Successors, worked out by hand."""

import numpy as np
import pytest

from pipelines.retrieval.sequence_neighbors import build_successors


def as_dict(table, row):
    return {int(i): pytest.approx(float(score), abs=1e-6) for i, score in zip(*table.of(row), strict=True)}


def test_an_item_points_to_what_came_after_it_and_less_to_what_came_later():
    table = build_successors(np.zeros(3, np.int64), np.array([0, 1, 2]), 3, decay=0.5)
    assert as_dict(table, 0) == {1: 1.0, 2: 0.5}
    assert as_dict(table, 1) == {2: 1.0}
    assert as_dict(table, 2) == {}


def test_successors_stay_within_a_user_and_within_reach():
    users, items = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 3])
    table = build_successors(users, items, 4, reach=1)
    assert as_dict(table, 0) == {1: 1.0}
    assert as_dict(table, 2) == {}


def test_nothing_known_gives_an_empty_table():
    nothing = np.empty(0, np.int64)
    assert len(build_successors(nothing, nothing, 2).ids) == 0
