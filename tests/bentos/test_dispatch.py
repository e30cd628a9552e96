"""When answers are made, beside what else the event loop has to do."""

import asyncio
import threading
import time

import pytest

from bentos.recommender.contract.calls import CALLS
from bentos.recommender.http.dispatch import Dispatch
from bentos.recommender.http.replies import LateError
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


def test_who_waits_for_a_thread_is_answered_at_the_deadline():
    async def wait() -> list[float]:
        answers = Answers(waits=True)
        dispatch = Dispatch(answers)
        held = asyncio.create_task(ask(dispatch))
        began = time.monotonic()
        waited = []
        for _ in range(2):
            with pytest.raises(LateError):
                await dispatch.answer(
                    SEARCH, "/search", BODY, timings=False, deadline=time.monotonic() + 0.1, client=None
                )
            waited.append(time.monotonic() - began)
        answers.go_on.set()
        assert await held == {"query": "milk"}  # whose turn it was is not disturbed
        assert await ask(dispatch) == {"query": "milk"}  # nor who comes after those who gave up
        dispatch.close()
        return waited

    first, second = asyncio.run(wait())
    assert 0.1 <= first < 3
    assert first + 0.1 <= second < 4


async def settles(dispatch: Dispatch) -> bool:
    """Say whether it has settled within seconds; a process that has just worked needs a calm moment."""
    for _ in range(200):
        if dispatch.is_settled:
            return True
        await asyncio.sleep(0.02)
    return False


def test_who_waited_for_the_start_is_answered_before_the_process_is_ready_and_that_holds():
    async def start() -> list[bool]:
        answers = Answers(waits=True)
        dispatch = Dispatch(answers)
        waiting = [asyncio.create_task(ask(dispatch)) for _ in range(2)]
        while not dispatch.lane_of(SEARCH).is_free or not dispatch._lanes["answers"].waiting:
            await asyncio.sleep(0)
        settled = [dispatch.is_settled]
        answers.go_on.set()
        await asyncio.gather(*waiting)
        settled.append(await settles(dispatch))
        answers.go_on.clear()
        waiting = [asyncio.create_task(ask(dispatch)) for _ in range(2)]
        while not dispatch._lanes["answers"].waiting:
            await asyncio.sleep(0)
        settled.append(dispatch.is_settled)
        answers.go_on.set()
        await asyncio.gather(*waiting)
        dispatch.close()
        return settled

    assert asyncio.run(start()) == [False, True, True]
