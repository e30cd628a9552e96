"""Both tasks of one folder: where the queries come from, and that they ask for the same items."""

import numpy as np
import pytest

from pipelines.benchmarks.folder import read_items, read_search_folder
from pipelines.benchmarks.joint_tasks import joint_tasks, judgements_of, made_up_judgements
from tests.toys.bench_folders import ITEM_IDS, write_interactions, write_items, write_judgements

EVENTS = [(user, item, place) for user in ("ann", "bob") for place, item in enumerate("abcd")]
# by SHA-1: some of these fall into each of the three parts
QUERIES = [f"query {number}" for number in range(30)]


@pytest.fixture
def shop(tmp_path):
    write_items(tmp_path / "shop")
    return write_interactions(tmp_path / "shop", EVENTS)


def test_without_judgements_queries_are_made_from_the_catalogue(shop):
    tasks = joint_tasks(shop, drawn=200, quick=False)
    assert tasks.made_up
    parts = [tasks.search.train.queries, tasks.search.validation.queries, tasks.search.test.queries]
    assert all(parts)
    every = [query for part in parts for query in part]
    assert len(every) == len(set(every))
    assert tasks.catalog.event_counts.tolist() == [2, 2, 0, 0, 0]  # before validation


def test_the_same_queries_are_made_again(shop):
    one, two = (joint_tasks(shop, drawn=50, quick=False).search for _ in range(2))
    assert one.sha1 == two.sha1
    assert joint_tasks(shop, drawn=60, quick=False).search.sha1 != one.sha1


def test_a_query_drawn_for_several_items_asks_for_all_of_them(shop):
    tasks = joint_tasks(shop, drawn=200, quick=False)
    made = made_up_judgements("shop", tasks.search.items, tasks.catalog, 500)
    assert made.rows[made.query_numbers == made.queries.index("tea")].tolist() == [0, 1]
    assert set(made.grades) == {1.0}


def test_judgements_of_the_folder_are_the_queries(shop):
    write_judgements(shop, [(query, ITEM_IDS[place % 5], 1 + place % 2) for place, query in enumerate(QUERIES)])
    tasks = joint_tasks(shop, drawn=200, quick=False)
    assert not tasks.made_up
    found = [*tasks.search.train.queries, *tasks.search.validation.queries, *tasks.search.test.queries]
    assert sorted(found) == sorted(QUERIES)


def test_judgements_of_items_outside_a_sample_are_left_out(shop):
    write_judgements(shop, [("tea", "a", 2.0), ("tea", "b", 1.0), ("pot", "c", 1.0), ("cup", "e", 1.0)])
    sample = read_items(shop).at(np.array([1, 4]))  # b and e
    found = judgements_of(read_search_folder(shop), sample)
    assert found.queries == ["cup", "tea"]
    assert found.query_numbers.tolist() == [0, 1]
    assert found.rows.tolist() == [1, 0]
    assert found.grades.tolist() == [1.0, 1.0]
