"""Towers for one task and for both: what is measured, how steps are counted, and what stops a training."""

import numpy as np
import pytest

from pipelines.benchmarks.joint_model import Laboratory, Part, query_ranks, relative_mean
from pipelines.benchmarks.joint_tasks import joint_tasks
from pipelines.config import HeadraceConfig
from pipelines.progress import SilentProgress
from tests.toys.bench_folders import write_interactions, write_items

# Text vectors of a to e and, as queries' vectors, those of their titles' words.
TEXTS = np.eye(5, 8, dtype=np.float32)
EVENTS = [
    (f"u{user}", item, user * 10 + place)
    for user in range(12)
    for place, item in enumerate(("abcde" * 2)[user % 5 :][:4])
]
STEPS = 20


def embed(queries):
    """A query lies where its number of letters says, so every vector is one of the text vectors."""
    return TEXTS[[len(query) % 5 for query in queries]]


@pytest.fixture
def laboratory(tmp_path):
    write_items(tmp_path / "shop")
    tasks = joint_tasks(write_interactions(tmp_path / "shop", EVENTS), drawn=200, quick=False)
    config = HeadraceConfig()
    changes = {"tower_steps": STEPS, "validate_every": 10, "tower_batch": 8, "negatives": 16}
    training = config.training.model_copy(update=changes)
    return Laboratory(tasks, config.model_copy(update={"training": training}), TEXTS, embed, SilentProgress())


def test_ranks_of_a_querys_items_by_cosine():
    vectors = np.eye(3, dtype=np.float32)
    queries = np.array([[0.9, 0.3, 0.1], [0.0, 0.1, 0.9]], np.float32)
    found = query_ranks(queries, vectors, [np.array([1]), np.array([0, 2])])
    assert [ranks.tolist() for ranks in found] == [[2], [3, 1]]


def test_both_tasks_count_relative_to_where_they_began():
    assert relative_mean([0.06, 0.55], [0.04, 0.50]) == pytest.approx((1.5 + 1.1) / 2)
    assert relative_mean([0.02, 0.5], [0.0, 0.5]) == pytest.approx((2.0 + 1.0) / 2)  # one hundredth instead of 0


@pytest.mark.parametrize(
    ("objective", "steps"), [("joint", 600), ("alternating", 1_200), ("recommend", 600), ("search", 600)]
)
def test_every_task_has_the_same_steps(objective, steps):
    assert Part(objective, 8).steps(600) == steps


def test_untrained_towers_find_what_text_finds(laboratory):
    found = laboratory.untrained()
    test = laboratory.tasks.search.test
    expected = query_ranks(embed(test.queries), TEXTS, test.items)
    # the behavior's random start moves vectors a little, so only the best place is certain
    for ours, text in zip(np.split(found["search"], np.cumsum([len(e) for e in expected])[:-1]), expected, strict=True):
        assert ((ours == 1) == (text == 1)).all()
    assert len(found["recommend"]) == sum(map(len, laboratory.tasks.recommend.test.new_targets))


@pytest.mark.slow
def test_a_part_that_was_trained_twice_is_the_same(laboratory, tmp_path):
    part = Part("joint", 8)
    one, two = (laboratory.train(part, 3, tmp_path / name) for name in ("one", "two"))
    for name, values in one.items():
        np.testing.assert_array_equal(two[name], values)
    assert not any((tmp_path / "one").iterdir())  # checkpoints of a finished part are gone


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["alternating", "recommend", "search"])
def test_every_objective_is_trained_and_measured_on_both_tasks(laboratory, tmp_path, objective):
    found = laboratory.train(Part(objective, 8), 0, tmp_path)
    assert set(found) == {"recommend", "search", "parameters", "best_step"}
    assert 0 <= found["best_step"] <= STEPS * 2
    assert found["search"].min() >= 1
