"""When a process that has just started says that it is ready."""

import asyncio

import pytest

from bentos.recommender.http.admission import Lane, OverloadedError
from bentos.recommender.http.settling import Settling


class Machine:
    """A clock, and how much of a core is used."""

    def __init__(self) -> None:
        self.now_s, self.used_s = 100.0, 5.0
        self.lane = Lane("test", slots=1, max_waiting=10, max_wait_s=9.0, clock=lambda: self.now_s)
        self.settling = Settling([self.lane], clock=lambda: self.now_s, cpu=lambda: self.used_s)

    def run(self, seconds: float, *, busy: float) -> bool:
        self.now_s += seconds
        self.used_s += busy * seconds
        return self.settling.is_over


@pytest.fixture
def machine():
    machine = Machine()
    assert not machine.settling.is_over
    return machine


def test_who_has_time_to_spare_has_settled_for_good(machine):
    assert not machine.run(0.1, busy=0.0)
    assert machine.run(0.2, busy=0.1)
    assert machine.run(9.0, busy=1.0)


def test_who_has_no_time_to_spare_has_not_though_nobody_waits_in_a_lane(machine):
    assert [machine.run(0.3, busy=1.0) for _ in range(3)] == [False] * 3
    assert machine.run(0.3, busy=0.5)


def test_who_is_overloaded_from_the_start_is_ready_in_the_end(machine):
    outcomes = [machine.run(0.3, busy=1.0) for _ in range(34)]
    assert outcomes == [False] * 33 + [True]


def test_who_has_waited_long_or_was_refused_is_waited_for(machine):
    async def crowd() -> list[bool]:
        entered = await machine.lane.enter()
        waiting = asyncio.create_task(machine.lane.enter())
        await asyncio.sleep(0)
        found = [machine.run(0.3, busy=0.0)]
        machine.lane.leave(entered)
        found.append(machine.run(0.05, busy=0.0))
        machine.lane.leave(await waiting)
        found.append(machine.run(0.3, busy=0.0))
        return found

    assert asyncio.run(crowd()) == [False, False, True]


def test_a_short_wait_is_no_crowd(machine):
    async def two() -> bool:
        entered = await machine.lane.enter()
        waiting = asyncio.create_task(machine.lane.enter())
        await asyncio.sleep(0)
        machine.now_s += 0.01
        machine.lane.leave(entered)
        machine.lane.leave(await waiting)
        return machine.run(0.26, busy=0.0)

    assert asyncio.run(two())


def test_a_refusal_is_a_crowd(machine):
    async def refuse() -> bool:
        lane = machine.lane = Lane("none", slots=1, max_waiting=0, max_wait_s=1.0, clock=lambda: machine.now_s)
        machine.settling = Settling([lane], clock=lambda: machine.now_s, cpu=lambda: machine.used_s)
        assert not machine.settling.is_over
        machine.run(0.2, busy=0.0)
        entered = await lane.enter()
        with pytest.raises(OverloadedError):
            await lane.enter()
        lane.leave(entered)
        return machine.run(0.1, busy=0.0)

    assert not asyncio.run(refuse())
    assert machine.run(0.3, busy=0.0)
