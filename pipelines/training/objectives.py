"""Which losses a step of the towers adds up: the next items of users, the items of queries, or both."""

from typing import Literal

Objective = Literal["joint", "alternating", "recommend", "search"]
Task = Literal["recommend", "search"]

_TASKS: dict[Objective, tuple[tuple[Task, ...], ...]] = {
    "joint": (("recommend", "search"),),
    "alternating": (("recommend",), ("search",)),
    "recommend": (("recommend",),),
    "search": (("search",),),
}


def tasks_of_step(objective: Objective, step: int) -> tuple[Task, ...]:
    """Return the tasks whose losses step `step` (from 0) learns from; `alternating` begins with recommendation."""
    turns = _TASKS[objective]
    return turns[step % len(turns)]
