"""When answers are made, beside what else the event loop has to do."""

import asyncio
import threading

import pytest

from bentos.recommender.contract.calls import CALLS
from bentos.recommender.http.dispatch import Dispatch
from pipelines.config import ServingConfig

SEARCH = next(call for call in CALLS if call.name == "search")
BODY = b'{"query": "milk"}'


class Answers:
    """Answers at once, or in a thread when it is let go."""

    serving = ServingConfig(answer_threads=1)

    def __init__(self, *, waits: bool = False) -> None:
        self.waits, self.go_on = waits, threading.Event()

    def must_wait(self, body) -> bool:
        return self.waits

    def give_way(self, is_busy) -> None:
        pass

    def search(self, body) -> dict:
        if self.waits:
            self.go_on.wait(5)
        return {"query": body.query}


async def ask(dispatch: Dispatch) -> dict:
    return await dispatch.answer(SEARCH, "/search", BODY, timings=False, deadline=float("inf"))


@pytest.mark.parametrize(("crowd", "rounds"), [(0, range(1, 5)), (5, range(6, 10)), (10_000, range(8, 13))])
def test_a_crowd_is_let_in_before_the_next_answer_but_not_for_ever(crowd, rounds):
    async def arrive() -> int:
        dispatch, loop, round_ = Dispatch(Answers()), asyncio.get_running_loop(), 0

        def turn() -> None:
            nonlocal round_
            round_ += 1
            if round_ <= crowd:
                dispatch.connected()
            loop.call_soon(turn)

        loop.call_soon(turn)
        assert await ask(dispatch) == {"query": "milk"}
        dispatch.close()
        return round_

    assert asyncio.run(arrive()) in rounds
