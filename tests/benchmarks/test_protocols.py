"""What is known, what is asked and what counts, worked out by hand."""

import hashlib

import numpy as np
import pytest

from pipelines.benchmarks.folder import read_recommend_folder, read_search_folder
from pipelines.benchmarks.protocols import grade_scale, leave_one_out, next_basket, recommend_task, search_split
from pipelines.errors import DataError
from tests.toys.bench_folders import write_interactions, write_items, write_judgements


@pytest.fixture
def interactions(tmp_path):
    def read(events, **options):
        write_items(tmp_path)
        return read_recommend_folder(write_interactions(tmp_path, events, **options))

    return read


@pytest.fixture
def judged(tmp_path):
    def read(judgements):
        write_items(tmp_path)
        return read_search_folder(write_judgements(tmp_path, judgements))

    return read


LONG = [("long", item, 10 * place) for place, item in enumerate("abcd")]


def test_the_last_item_is_the_test_and_the_one_before_it_the_validation(interactions):
    task = leave_one_out(interactions(LONG))
    assert [row.tolist() for row in task.test.targets] == [[3]]
    assert [row.tolist() for row in task.validation.targets] == [[2]]
    assert task.validation.histories[0].tolist() == [0, 1]
    assert task.test.histories[0].tolist() == [0, 1, 2]  # the validation item is known by then
    assert task.test.history_ages[0].tolist() == [2, 1, 0]
    assert task.test.as_of_s.tolist() == [30]
    assert task.known_before_validation.items.tolist() == [0, 1]
    assert task.known_before_test.items.tolist() == [0, 1, 2]


def test_short_users_of_leave_one_out_train_or_are_only_tested(interactions):
    two, one = [("two", "a", 1), ("two", "b", 2)], [("one", "e", 1)]
    task = leave_one_out(interactions([*LONG, *two, *one]))
    assert [task.user_ids[user] for user in task.test.users] == ["long", "two"]
    assert [task.user_ids[user] for user in task.validation.users] == ["long"]
    assert task.test.histories[1].tolist() == [0]
    assert 4 in task.known_before_validation.items  # the only item of `one` trains


def test_leave_one_out_conserves_events(interactions):
    rng = np.random.default_rng(0)
    events = [(f"u{user}", "abcde"[rng.integers(5)], step) for user in range(20) for step in range(rng.integers(1, 9))]
    folder = interactions(events)
    task = leave_one_out(folder)
    assert len(task.known_before_test) + len(task.test) == len(folder.users)
    assert len(task.known_before_validation) + len(task.validation) == len(task.known_before_test)


def test_a_target_that_was_taken_before_is_not_new(interactions):
    events = [("u", item, place) for place, item in enumerate("abca")]
    task = leave_one_out(interactions(events))
    assert task.repeats
    assert task.test.targets[0].tolist() == [0]
    assert task.test.new_targets[0].tolist() == []
    assert task.test.seen[0].tolist() == [0, 1, 2]


def test_leave_one_out_needs_a_user_with_three_events(interactions):
    with pytest.raises(DataError, match=r"three events \(most: 2\)"):
        leave_one_out(interactions([("u", "a", 1), ("u", "b", 2)]))


def baskets(*, users=2, count=10):
    """Return baskets of two items each, one of every user at each of the times 0, 100, 200, …"""
    return [(f"u{user}", "abcde"[(time + place) % 5], 100 * time) for time in range(count) for user in range(users)
            for place in (0, 1)]  # fmt: skip


def test_the_newest_tenth_of_the_baskets_is_the_test(interactions):
    task = next_basket(interactions(baskets(), with_pos=False))
    assert task.test.as_of_s.tolist() == [900, 900]
    assert task.validation.as_of_s.tolist() == [800, 800]
    assert task.known_before_test.times.max() == 800
    assert task.known_before_validation.times.max() == 700
    assert [row.tolist() for row in task.test.targets] == [[0, 4], [0, 4]]


def test_ages_count_baskets(interactions):
    task = next_basket(interactions(baskets(count=10), with_pos=False))
    assert task.validation.history_ages[0].tolist()[-4:] == [1, 1, 0, 0]


def test_a_basket_is_never_divided(interactions):
    events = baskets()
    folder = interactions(events, with_pos=False, basket_id=[f"{user} {time // 200}" for user, _, time in events])
    task = next_basket(folder)  # five baskets of a user, each of two moments
    assert task.test.as_of_s.tolist() == [800, 800]
    assert [row.tolist() for row in task.test.targets] == [[0, 3, 4], [0, 3, 4]]
    assert task.known_before_test.times.max() == 700


def test_only_the_first_basket_of_a_window_is_asked(interactions):
    events = [*baskets(users=1, count=17), ("u0", "a", 1750), ("u0", "b", 1760), ("u0", "c", 1770)]
    task = next_basket(interactions(events, with_pos=False))
    assert [row.tolist() for row in task.test.targets] == [[1]]
    assert task.test.as_of_s.tolist() == [1760]


def test_who_has_no_history_is_not_asked(interactions):
    task = next_basket(interactions([*baskets(), ("fresh", "c", 950)], with_pos=False))
    assert "fresh" not in [task.user_ids[user] for user in task.test.users]


def test_a_folder_without_anybody_to_ask_is_refused(interactions):
    with pytest.raises(DataError, match="window"):
        next_basket(interactions([("u", "a", 1), ("v", "b", 2), ("w", "c", 3)], with_pos=False))


@pytest.mark.parametrize(("with_pos", "protocol"), [(True, "leave_one_out"), (False, "next_basket")])
def test_pos_decides_the_protocol(interactions, with_pos, protocol):
    assert recommend_task(interactions(baskets(), with_pos=with_pos)).protocol == protocol


def test_the_sha1_names_the_questions(interactions):
    sha1 = leave_one_out(interactions(LONG)).sha1
    assert sha1 == leave_one_out(interactions(LONG)).sha1
    assert sha1 != leave_one_out(interactions([*LONG[:3], ("long", "e", 30)])).sha1


def first_byte(query):
    return hashlib.sha1(query.encode()).digest()[0] % 5


def test_queries_are_divided_by_their_text(judged):
    task = search_split(judged([(f"query {number}", "a", 1.0 + number % 2) for number in range(60)]))
    assert {first_byte(query) for query in task.test.queries} == {0}
    assert {first_byte(query) for query in task.validation.queries} == {1}
    assert {first_byte(query) for query in task.train.queries} == {2, 3, 4}
    assert len(task.test) + len(task.validation) + len(task.train) == 60


def test_a_part_without_queries_is_refused(judged):
    with pytest.raises(DataError, match="none falls into"):
        search_split(judged([("tea", "a", 1.0), ("tea", "b", 2.0)]))


def test_a_test_without_anything_to_find_is_refused(judged):
    queries = [f"query {number}" for number in range(60)]
    judgements = [(query, "a", 1.0 + (first_byte(query) != 0)) for query in queries]
    with pytest.raises(DataError, match=r"No test query of .* has an item with a grade above 1, .* of 60 queries"):
        search_split(judged(judgements))
    assert len(search_split(judged(judgements), lowest_grade=0.0).test) > 0


@pytest.mark.parametrize(
    ("grades", "gains", "relevant_from"),
    [
        pytest.param([1.0, 2.33, 3.0], [0, 1.33, 2], 2.33, id="one to three"),
        pytest.param([0, 1], [0, 1], 0.66, id="yes and no"),
        pytest.param([0, 2, 4], [0, 2, 4], 2.66, id="none to four"),
        pytest.param([1, 1], [1, 1], 1, id="only positives"),
    ],
)
def test_a_gain_is_the_grade_above_the_lowest(judged, grades, gains, relevant_from):
    scale = grade_scale(judged([("q", "abcde"[place], float(grade)) for place, grade in enumerate(grades)]))
    assert scale.gains(np.asarray(grades, float)).tolist() == pytest.approx(gains)
    assert scale.relevant_from == pytest.approx(relevant_from)


def test_the_lowest_grade_may_be_said(judged):
    scale = grade_scale(judged([("q", "a", 1.0), ("q", "b", 2.0)]), lowest_grade=0.0)
    assert scale.gains(np.asarray([1.0, 2.0])).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("grades", "lowest", "said"),
    [
        pytest.param((0.0, 100.0), None, "may span 8 at most", id="hundred"),
        pytest.param((1.0, 2.0), 2.0, "lower --lowest-grade", id="nothing above"),
    ],
)
def test_grades_without_a_use_are_refused(judged, grades, lowest, said):
    with pytest.raises(DataError, match=said):
        grade_scale(judged([("q", "a", grades[0]), ("q", "b", grades[1])]), lowest_grade=lowest)
