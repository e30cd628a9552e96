"""A task in the forms that training reads, worked out by hand."""

import numpy as np
import pytest

from pipelines.benchmarks.folder import read_recommend_folder
from pipelines.benchmarks.protocols import leave_one_out, next_basket
from pipelines.benchmarks.task_training import (
    asked_rows,
    known_users,
    latest_popularity,
    moments,
    ranking_rows,
    task_catalog,
    task_events,
    task_items,
    training_rows,
)
from tests.toys.bench_folders import write_interactions, write_items

DAY = 86_400


@pytest.fixture
def task(tmp_path):
    write_items(tmp_path)
    events = [("u", item, DAY * place) for place, item in enumerate("abcad")] + [("v", "b", 0), ("v", "c", DAY)]
    return leave_one_out(read_recommend_folder(write_interactions(tmp_path, events)))


def test_every_basket_with_something_before_it_is_a_row(task):
    known = task.known_before_validation  # a b c of the first user; of the second, too short, the first item
    found = [(moment.user, moment.known_to - moment.known_from) for moment in moments(known)]
    assert found == [(0, 1), (0, 2)]
    rows = training_rows(task, known, 10)
    assert [history[0].tolist() for history in rows.histories] == [[0], [0, 1]]
    assert [part.tolist() for part in rows.targets] == [[1], [2]]
    assert rows.as_of_s.tolist() == [DAY, 2 * DAY]
    assert [history[2].tolist() for history in rows.histories] == [[0], [0, DAY]]


def test_the_newest_rows_are_kept(task):
    assert [part.tolist() for part in training_rows(task, task.known_before_validation, 1).targets] == [[2]]


def test_an_item_touched_before_is_no_new_target(task):
    rows = training_rows(task, task.known_before_test, 10)
    assert rows.targets[-1].tolist() == [0]
    assert rows.new_targets[-1].tolist() == []


def test_asked_rows_and_the_online_store_know_the_same(task):
    rows, users = asked_rows(task, task.test), known_users(task, task.test)
    assert rows.histories[0][0].tolist() == [0, 1, 2, 0]
    assert list(users[0].item_ids) == ["a", "b", "c", "a"]
    assert list(users[0].event_times) == [0, DAY, 2 * DAY, 3 * DAY]


def test_the_ranking_is_learned_from_the_validation_items(task):
    learned = ranking_rows(task, 10)
    assert learned.now_s.tolist() == task.validation.as_of_s.tolist() == [3 * DAY]
    assert [part.tolist() for part in learned.targets] == [part.tolist() for part in task.validation.targets]
    assert [part.tolist() for part in learned.new_targets] == [[]]
    assert [part.tolist() for part in learned.seen] == [part.tolist() for part in task.validation.seen]


def test_the_ranking_is_learned_from_every_basket_between_validation_and_test_and_from_nothing_later(tmp_path):
    """Twenty baskets of two users, one a day: two are the validation window, two the test."""
    write_items(tmp_path)
    events = [("uv"[place % 2], "abcde"[place % 5], DAY * place) for place in range(16)]
    events += [("u", "a", 16 * DAY), ("u", "b", 17 * DAY), ("u", "c", 18 * DAY), ("u", "d", 19 * DAY)]
    task = next_basket(read_recommend_folder(write_interactions(tmp_path, events, with_pos=False)))
    assert task.validation.as_of_s.tolist() == [16 * DAY]  # the first alone is measured
    learned = ranking_rows(task, 10)
    assert learned.now_s.tolist() == [16 * DAY, 17 * DAY]
    assert [part.tolist() for part in learned.targets] == [[0], [1]]
    assert list(learned.features[1].item_ids)[-1] == "a"  # what was taken in the basket before is known by then
    assert max(learned.features[1].event_times) < 17 * DAY
    assert ranking_rows(task, 1).now_s.tolist() == [16 * DAY]


def test_popularity_halves_in_two_weeks(task):
    popularity = latest_popularity(task.known_before_validation)
    newest = 2 * DAY
    assert popularity[0] == pytest.approx(0.5 ** (newest / (14 * DAY)))
    assert popularity[2] == pytest.approx(1.0)
    assert popularity[3] == 0


def test_events_and_items_have_the_form_of_the_loop(task):
    events = task_events(task, task.known_before_validation)
    assert events["item_id"].to_pylist()[:3] == ["a", "b", "c"]
    assert events["event_timestamp"][1].as_py().timestamp() == DAY
    assert task_items(task)["item_id"].to_pylist() == task.item_ids
    catalog = task_catalog(task, task.known_before_validation)
    assert catalog.event_counts.tolist() == np.bincount(task.known_before_validation.items, minlength=5).tolist()
