"""Requests that came in one piece, answered without uvicorn's cycle, without ASGI and without a task.

Those cost as much as a recommendation does. Everything that guards the service guards these requests as well: they are
refused at their head, admitted, parsed, counted in their lane, answered in their turn and noted as all others are.
What is not whole and plain (`Api.whole`), and what has to be waited for in a way of its own, goes the way of ASGI.
"""

import time
from collections.abc import Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from bentos.recommender.contract.calls import Call
from bentos.recommender.contract.requests import Body
from bentos.recommender.current_request import begin_request
from bentos.recommender.http.admission import ClientGoneError
from bentos.recommender.http.dispatch import MOST_ROUNDS, parse_body
from bentos.recommender.http.replies import Reply, problem_of

if TYPE_CHECKING:
    from bentos.recommender.http.api import Api
    from bentos.recommender.http.connections import Connection


class _NobodyWaits:
    """An event that nobody waits for."""

    def set(self) -> None:
        """Do nothing."""


class WholeRequest:
    """One request; stands where uvicorn has its cycle, so that those behind it on the connection wait for it."""

    message_event = _NobodyWaits()
    response_started = False

    def __init__(
        self, api: "Api", connection: "Connection", call: Call, headers: Mapping[bytes, bytes], *, timings: bool
    ) -> None:
        """Nothing is read yet.

        Args:
            headers: Those that are looked at, lower-case names.
            timings: Whether the query string asks for them.
        """
        self.response_complete = False
        self.keep_alive = True
        """Whether the connection stays open; uvicorn ends it when the process is to end."""
        self.disconnected = False
        """Whether the client has gone; uvicorn tells."""
        self._api = api
        self._connection = connection
        self._call = call
        self._headers = headers
        self._timings = timings
        self._began = 0.0
        self._request_id = ""
        self._body: Body | None = None

    def take(self, raw: bytes) -> None:
        """Answer, now or when it is this request's turn; never raises.

        What the stages note of the request stays in a context of its own, as in a task.
        """
        copy_context().run(self._take, raw)

    # Inside

    def _take(self, raw: bytes) -> None:
        api, call = self._api, self._call
        self._began = time.monotonic()
        self._request_id = api.request_id(self._headers)
        begin_request(self._request_id, api.dispatch.deadline(call, self._began))
        try:
            api.callers.admit(self._headers, self._connection.host, call.scope, call.name)
            self._body = parse_body(call, call.route, raw, timings=self._timings)
            api.dispatch.lane_of(call).enter_soon(self._at_turn, self._refused, self._connection)
        except Exception as error:  # noqa: BLE001 - whatever happens, there is a reply
            self._refused(error)

    def _at_turn(self, entered: float, rounds: int = MOST_ROUNDS) -> None:
        """Answer, after the connections that wait to be made."""
        dispatch = self._api.dispatch
        if rounds and dispatch.has_newcomers():
            self._connection.loop.call_soon(self._at_turn, entered, rounds - 1)
            return
        try:
            answer = dispatch.at_turn(self._call, self._body, entered)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - as above
            self._refused(error)
            return
        if answer is None:
            self._connection.keep(self._connection.loop.create_task(self._wait()))
        else:
            self._send(answer)

    async def _wait(self) -> None:
        """Answer in a thread."""
        call, dispatch = self._call, self._api.dispatch
        try:
            answer = await dispatch.in_thread(
                call, self._body, deadline=dispatch.deadline(call, self._began), client=self._connection
            )
        except Exception as error:  # noqa: BLE001 - as above
            self._refused(error)
        else:
            self._send(answer)

    def _send(self, answer: dict[str, Any]) -> None:
        try:
            self._reply(Reply(self._call.status, answer, []))
        except Exception as error:  # noqa: BLE001 - an answer that is no JSON
            self._refused(error)

    def _refused(self, error: Exception) -> None:
        if not isinstance(error, ClientGoneError):
            self._reply(problem_of(error, self._call.name))

    def _reply(self, reply: Reply) -> None:
        self._api.sign(reply, self._request_id, self._headers)
        body = reply.body()
        if not self.disconnected:
            self._connection.send_reply(self, reply.status, reply.headers, body)
        self._api.note(self._call.name, reply, time.monotonic() - self._began)
