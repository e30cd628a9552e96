"""Who is answered next, and who is refused."""

import asyncio

import pytest

from bentos.recommender.http.admission import ClientGoneError, Lane, OverloadedError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def answer(lane: Lane, clock: Clock, name: int, takes_s: float, log: list) -> None:
    try:
        entered = await lane.enter()
    except OverloadedError as error:
        log.append((name, error.why))
        return
    clock.now += takes_s
    lane.leave(entered)
    log.append((name, "answered"))


def run(requests: int, *, takes_s: float, slots: int = 1, max_waiting: int = 100, max_wait_s: float = 1e9) -> list:
    async def all_at_once() -> list:
        clock, log = Clock(), []
        lane = Lane("test", slots=slots, max_waiting=max_waiting, max_wait_s=max_wait_s, clock=clock)
        await asyncio.gather(*(answer(lane, clock, name, takes_s, log) for name in range(requests)))
        assert lane.waiting == 0
        await answer(lane, clock, requests, takes_s, later := [])
        assert later == [(requests, "answered")]  # it recovers at once
        return log

    return asyncio.run(all_at_once())


def test_requests_are_answered_in_the_order_in_which_they_came():
    assert run(5, takes_s=1) == [(name, "answered") for name in range(5)]


def test_those_beyond_the_queue_are_refused_before_any_is_answered():
    log = run(6, takes_s=1, max_waiting=3)
    assert log[:2] == [(4, "queue_full"), (5, "queue_full")]
    assert log[2:] == [(name, "answered") for name in range(4)]


def test_a_moment_in_which_the_process_stood_still_refuses_nobody():
    assert run(5, takes_s=1, max_wait_s=2) == [(name, "answered") for name in range(5)]


def test_who_waited_too_long_is_refused_if_those_behind_still_would():
    async def slower() -> list:
        clock, log = Clock(), []
        lane = Lane("test", slots=1, max_waiting=100, max_wait_s=5.5, clock=clock)
        for name in range(200):
            await answer(lane, clock, name, 1, [])
        # One that takes a hundred times as long counts for ten: the mean is 1.45, and 4 more are 5.8.
        await asyncio.gather(*(answer(lane, clock, name, 100 if name == 0 else 1, log) for name in range(6)))
        return log

    assert sorted(asyncio.run(slower())) == [(0, "answered"), (1, "waited_too_long")] + [
        (name, "answered") for name in range(2, 6)
    ]


def test_many_slow_requests_are_believed_soon():
    async def slower() -> list:
        clock, log = Clock(), []
        lane = Lane("test", slots=1, max_waiting=100, max_wait_s=2.5, clock=clock)
        for name in range(30):
            await answer(lane, clock, name, 0.001, [])
        for name in range(40):
            await answer(lane, clock, name, 3, [])
        await asyncio.gather(*(answer(lane, clock, name, 3, log) for name in range(3)))
        return log

    assert asyncio.run(slower())[0] == (2, "would_wait_too_long")


def test_who_would_wait_too_long_is_refused_at_once():
    async def busy() -> list:
        clock, log = Clock(), []
        lane = Lane("test", slots=1, max_waiting=100, max_wait_s=2.5, clock=clock)
        for name in range(200):  # the running mean comes close to the second that each takes
            await answer(lane, clock, name, 1, log)
        log.clear()
        await asyncio.gather(*(answer(lane, clock, name, 1, log) for name in range(5)))
        return log

    log = asyncio.run(busy())
    assert log[:2] == [(3, "would_wait_too_long"), (4, "would_wait_too_long")]
    assert sorted(log[2:]) == [(0, "answered"), (1, "answered"), (2, "answered")]


@pytest.mark.parametrize("slots", [1, 3])
def test_no_more_than_the_slots_are_answered_at_a_time(slots):
    async def count() -> int:
        lane = Lane("test", slots=slots, max_waiting=100, max_wait_s=1e9)
        inside = most = 0

        async def one() -> None:
            nonlocal inside, most
            entered = await lane.enter()
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            lane.leave(entered)

        await asyncio.gather(*(one() for _ in range(20)))
        return most

    assert asyncio.run(count()) == slots


def test_who_leaves_the_queue_holds_up_nobody():
    async def leave() -> list:
        clock, log = Clock(), []
        lane = Lane("test", slots=1, max_waiting=100, max_wait_s=1e9, clock=clock)
        entered = await lane.enter()
        tasks = [asyncio.create_task(answer(lane, clock, name, 1, log)) for name in range(4)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        lane.leave(entered)  # the turn goes to 1, which is cancelled before it takes it
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await answer(lane, clock, 4, 1, log)
        return log

    assert asyncio.run(leave()) == [(name, "answered") for name in (2, 3, 4)]


def test_heads_that_come_together_count_before_any_has_its_task():
    async def heads() -> list:
        clock, log = Clock(), []
        lane = Lane("test", slots=1, max_waiting=2, max_wait_s=1e9, clock=clock)
        let_in = [lane.lets_in() for _ in range(5)]
        tasks = [asyncio.create_task(answer(lane, clock, name, 1, log)) for name in range(3)]
        await asyncio.sleep(0)
        assert (lane.waiting, lane.lets_in()) == (2, False)
        await asyncio.gather(*tasks)
        assert lane.lets_in()  # they are counted once, and not for ever
        return [let_in, log]

    assert asyncio.run(heads()) == [[True, True, True, False, False], [(name, "answered") for name in range(3)]]


def test_who_left_is_not_answered_and_holds_up_nobody():
    class Caller:
        turn = None

    async def leave() -> list:
        clock, log = Clock(), []
        lane = Lane("test", slots=1, max_waiting=2, max_wait_s=1e9, clock=clock)
        callers = [Caller(), Caller()]
        entered = await lane.enter()
        waiting = [asyncio.create_task(lane.enter(caller)) for caller in callers]
        await asyncio.sleep(0)
        callers[0].turn.set_exception(ClientGoneError())
        await asyncio.sleep(0)
        assert (lane.waiting, callers[0].turn) == (1, None)
        third = asyncio.create_task(answer(lane, clock, 3, 1, log))  # there is room again
        await asyncio.sleep(0)
        lane.leave(entered)
        lane.leave(await waiting[1])
        await third
        with pytest.raises(ClientGoneError):
            await waiting[0]
        assert (lane.waiting, callers[1].turn) == (0, None)
        return log

    assert asyncio.run(leave()) == [(3, "answered")]
