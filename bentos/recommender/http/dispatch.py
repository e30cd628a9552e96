"""Where answers are made: in the event loop what need not wait, else in a bounded number of threads."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from bentos.recommender.contract.calls import Call, LaneName
from bentos.recommender.contract.requests import Body, parse, parse_field
from bentos.recommender.http.admission import Client, Lane
from bentos.recommender.http.replies import LateError
from bentos.recommender.http.settling import Settling

if TYPE_CHECKING:
    from bentos.recommender.answering.answers import Answers

_ADMIN_DEADLINE_S = 60.0
_MAX_WAITING_ADMIN = 4
MOST_ROUNDS = 8
"""Rounds of the event loop between two answers while connections are made, one a round: some 0.1 ms each."""


class Dispatch:
    """Calls `Answers`, each kind of call within its budget: a flood of events holds up no search, nor the reverse."""

    def __init__(self, answers: "Answers") -> None:
        """Take the budgets from the settings that the answers have."""
        serving = answers.serving
        self.answers = answers
        limits = {"max_waiting": serving.max_waiting, "max_wait_s": serving.max_wait_ms / 1e3}
        self._inline = Lane("inline", slots=1, **limits)
        self._lanes: dict[LaneName, Lane] = {
            "answers": Lane("threads", slots=serving.answer_threads, **limits),
            "writes": Lane(
                "writes",
                slots=serving.write_threads,
                max_waiting=serving.max_waiting_writes,
                max_wait_s=serving.max_wait_writes_ms / 1e3,
            ),
            "admin": Lane("admin", slots=1, max_waiting=_MAX_WAITING_ADMIN, max_wait_s=_ADMIN_DEADLINE_S),
        }
        self._threads: dict[LaneName, ThreadPoolExecutor] = {
            "answers": ThreadPoolExecutor(serving.answer_threads, thread_name_prefix="answers"),
            "writes": ThreadPoolExecutor(serving.write_threads, thread_name_prefix="writes"),
            "admin": ThreadPoolExecutor(1, thread_name_prefix="admin"),
        }
        self._newcomers = 0
        self._settling = Settling((self._inline, *self._lanes.values()))
        self._seconds: dict[LaneName, float] = {
            "answers": serving.deadline_ms / 1e3,
            "writes": serving.write_deadline_ms / 1e3,
            "admin": _ADMIN_DEADLINE_S,
        }

        answers.give_way(self._is_busy)

    def _is_busy(self) -> bool:
        return self._inline.is_busy or any(lane.is_busy for lane in self._lanes.values())

    def close(self) -> None:
        """Let go of the threads."""
        for pool in self._threads.values():
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_settled(self) -> bool:
        """Whether the requests that had waited for this process to start are worked off; once so, for good."""
        return self._settling.is_over

    def connected(self) -> None:
        """Learn of a new connection."""
        self._newcomers += 1

    def lane_of(self, call: Call) -> Lane:
        """Return where a call waits first."""
        return self._inline if call.lane == "answers" else self._lanes[call.lane]

    def deadline(self, call: Call, began: float) -> float:
        """Return until when a call that came at `began` is to be answered; both on the clock of `time.monotonic`."""
        return began + self._seconds[call.lane]

    async def answer(
        self, call: Call, path: str, raw: bytes, *, timings: bool, deadline: float, client: Client | None = None
    ) -> dict[str, Any]:
        """Return what goes out.

        Args:
            raw: The body; empty where what is asked stands in the path.
            timings: Whether the query string asks for them.
            client: Who waits, if it may leave meanwhile.

        Raises:
            RequestError: the request is wrong.
            OverloadedError: there are too many.
            LateError: it was not ready at the deadline.
            ClientGoneError: there is nobody to answer.
        """
        if call.lane == "answers":
            body = parse_body(call, path, raw, timings=timings)
            entered = await self._inline.enter(client)
            await self._newcomers_first(entered)
            answer = self.at_turn(call, body, entered)
            if answer is not None:
                return answer
            return await self.in_thread(call, body, deadline=deadline, client=client)
        # A large body takes milliseconds to parse, and the disk is waited for.
        work = partial(self._parse_and_answer, call, path, raw, timings=timings)
        return await self._in_thread(call.lane, work, deadline, client)

    def at_turn(self, call: Call, body: Body, entered: float) -> dict[str, Any] | None:
        """Answer in the event loop and end the turn that came at `entered`; None where something must be waited for."""
        waits = False
        try:
            waits = self.answers.must_wait(body)  # asked when the turn has come: what is known may have changed since
            return None if waits else self._method(call)(body)
        finally:
            self._inline.leave(entered, counts=not waits)

    async def in_thread(self, call: Call, body: Body, *, deadline: float, client: Client | None) -> dict[str, Any]:
        """Answer in a thread of the call's lane; raises as `answer`."""
        return await self._in_thread(call.lane, partial(self._method(call), body), deadline, client)

    def has_newcomers(self) -> bool:
        """Whether connections were made since the last time that this was asked."""
        before, self._newcomers = self._newcomers, 0
        return before > 0

    # Inside

    def _method(self, call: Call) -> Callable[[Body], dict[str, Any]]:
        return getattr(self.answers, call.name)  # type: ignore[no-any-return]

    def _parse_and_answer(self, call: Call, path: str, raw: bytes, *, timings: bool) -> dict[str, Any]:
        return self._method(call)(parse_body(call, path, raw, timings=timings))

    async def _newcomers_first(self, entered: float) -> None:
        """Let connections be made before an answer is: with one of each a round, a crowd would wait for seconds.

        libuv takes one connection a round since its version 1.45.
        """
        try:
            for _ in range(MOST_ROUNDS):
                if not self.has_newcomers():
                    return
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._inline.leave(entered, counts=False)
            raise

    async def _in_thread(
        self, name: LaneName, work: Callable[[], dict[str, Any]], deadline: float, client: Client | None
    ) -> dict[str, Any]:
        """Answer in a thread; one that is late keeps its place until it is done."""
        lane = self._lanes[name]
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                entered = await lane.enter(client)
        except TimeoutError:  # the threads are held by those who are late themselves
            raise LateError from None
        run = contextvars.copy_context().run
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads[name], run, work)
        except RuntimeError:  # the service ends
            lane.leave(entered)
            raise

        def leave(done: asyncio.Future[dict[str, Any]]) -> None:
            lane.leave(entered)
            if not done.cancelled():
                done.exception()  # looked at, also where nobody waits any more

        future.add_done_callback(leave)
        done, _ = await asyncio.wait({future}, timeout=max(deadline - time.monotonic(), 0.0))
        if not done:
            raise LateError
        return future.result()


def parse_body(call: Call, path: str, raw: bytes, *, timings: bool) -> Body:
    """Read what is asked from the body, or from the path where the call has it there.

    Raises:
        RequestError: 400 or 422.
    """
    if (field := call.path_field) is not None:
        return parse_field(call.body, field, path[len(call.route.partition("{")[0]) :])
    body = parse(call.body, raw)
    return body.model_copy(update={"timings": True}) if timings and "timings" in call.body.model_fields else body
