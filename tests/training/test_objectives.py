import pytest

from pipelines.training.objectives import tasks_of_step

BOTH, USERS, QUERIES = ("recommend", "search"), ("recommend",), ("search",)


@pytest.mark.parametrize(
    ("objective", "turns"),
    [
        ("joint", [BOTH, BOTH, BOTH]),
        ("alternating", [USERS, QUERIES, USERS]),
        ("recommend", [USERS, USERS, USERS]),
        ("search", [QUERIES, QUERIES, QUERIES]),
    ],
)
def test_tasks_of_the_first_three_steps(objective, turns):
    assert [tasks_of_step(objective, step) for step in range(3)] == turns
