"""Where answers are made: in the event loop what need not wait, else in a bounded number of threads."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bentos.recommender.contract.calls import Call, LaneName
from bentos.recommender.contract.requests import Body, parse, parse_field
from bentos.recommender.http.admission import Client, Lane

if TYPE_CHECKING:
    from bentos.recommender.answering.answers import Answers

_ADMIN_DEADLINE_S = 60.0
_MAX_WAITING_ADMIN = 4
_MOST_ROUNDS = 8
"""Rounds of the event loop between two answers while connections are made, one a round: some 0.1 ms each."""
_MOST_SETTLING_S = 5.0
"""A process that is overloaded from the start is ready nonetheless: others would be all the more."""


class LateError(Exception):
    """An answer was not ready at its deadline."""


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
        self._is_settled = False
        self._asked_at: float | None = None
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
        if not self._is_settled:
            self._asked_at = self._asked_at or time.monotonic()
            is_late = time.monotonic() - self._asked_at >= _MOST_SETTLING_S
            self._is_settled = is_late or not any(lane.waiting for lane in (self._inline, *self._lanes.values()))
        return self._is_settled

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
        method: Callable[[Body], dict[str, Any]] = getattr(self.answers, call.name)
        if call.lane == "answers":
            body = _parse(call, path, raw, timings=timings)
            answer = await self._at_once(method, body, client)
            if answer is not None:
                return answer
            return await self._in_thread(call.lane, lambda: method(body), deadline, client)
        # A large body takes milliseconds to parse, and the disk is waited for.
        return await self._in_thread(
            call.lane, lambda: method(_parse(call, path, raw, timings=timings)), deadline, client
        )

    async def _at_once(
        self, method: Callable[[Body], dict[str, Any]], body: Body, client: Client | None
    ) -> dict[str, Any] | None:
        """Answer in the event loop; None where something must be waited for."""
        entered = await self._inline.enter(client)
        waits = False
        try:
            await self._newcomers_first()
            waits = self.answers.must_wait(body)  # asked when the turn has come: what is known may have changed since
            return None if waits else method(body)
        finally:
            self._inline.leave(entered, counts=not waits)

    async def _newcomers_first(self) -> None:
        """Let connections be made before an answer is: with one of each a round, a crowd would wait for seconds.

        libuv takes one connection a round since its version 1.45.
        """
        for _ in range(_MOST_ROUNDS):
            if not self._newcomers:
                return
            self._newcomers = 0
            await asyncio.sleep(0)

    async def _in_thread(
        self, name: LaneName, work: Callable[[], dict[str, Any]], deadline: float, client: Client | None
    ) -> dict[str, Any]:
        """Answer in a thread; one that is late keeps its place until it is done."""
        lane = self._lanes[name]
        entered = await lane.enter(client)
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


def _parse(call: Call, path: str, raw: bytes, *, timings: bool) -> Body:
    if (field := call.path_field) is not None:
        return parse_field(call.body, field, path[len(call.route.partition("{")[0]) :])
    body = parse(call.body, raw)
    return body.model_copy(update={"timings": True}) if timings and "timings" in call.body.model_fields else body
