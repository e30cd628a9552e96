"""The HTTP side: a plain ASGI application in front of BentoML's own, which adds 2 to 3 ms of CPU to each request.

Our calls are answered here; health checks and metrics go through to BentoML.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from bentos.recommender.contract.calls import CALLS, Call
from bentos.recommender.contract.requests import AnswerBody, RequestError
from bentos.recommender.current_request import begin_request, new_request_id
from bentos.recommender.http import callers, request_body
from bentos.recommender.http.admission import ClientGoneError, Lane
from bentos.recommender.http.callers import Callers, is_of_this_machine
from bentos.recommender.http.connections import CLIENT, Connection
from bentos.recommender.http.dispatch import Dispatch
from bentos.recommender.http.openapi import describe, summary
from bentos.recommender.http.replies import OVERLOADED, RETRY_AFTER_S, Headers, Reply, problem, problem_of, retry_after
from bentos.recommender.http.request_body import BodyReader, Message, Receive, told_length
from bentos.recommender.http.whole_requests import WholeRequest
from bentos.recommender.telemetry import metrics

if TYPE_CHECKING:
    from bentos.recommender.answering.answers import Answers
    from bentos.recommender.telemetry.traces import Traces

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_NOT_WHOLE = frozenset(
    {b"content-encoding", b"transfer-encoding", b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"}
)
"""Headers of requests that go the way of ASGI."""
_WANTED = callers.HEADERS | request_body.HEADERS | {b"x-request-id"} | _NOT_WHOLE
_KNOWN_QUERIES = frozenset({b"", b"timings=1"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_BENTOML_PATHS = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})
_OVERVIEW, _OPENAPI = "/", "/openapi.json"
_logger = logging.getLogger("headrace.serving")


class Api:
    """The application; it answers once `open` was called."""

    def __init__(self, behind: ASGIApp | None = None) -> None:
        """Take BentoML's application, where there is one."""
        self.behind = behind
        self._bodies = BodyReader()
        self._bundle = metrics.BundleInfo()
        self._routes = {(call.method, call.route): call for call in CALLS if call.path_field is None}
        self._prefixes = [(call.route.partition("{")[0], call) for call in CALLS if call.path_field is not None]
        self._seconds: dict[tuple[str, int], Any] = {}
        self._lanes: dict[bytes, Lane] = {}
        self._whole_calls: dict[bytes, Call] = {}
        self._origins: frozenset[bytes] = frozenset()

    def open(self, answers: "Answers", *, callers: Callers | None = None, traces: "Traces | None" = None) -> None:
        """Begin to answer; without `callers`, only this machine."""
        serving = answers.serving
        self.dispatch = Dispatch(answers)
        self._lanes = {
            f"{method} {route}".encode(): self.dispatch.lane_of(call) for (method, route), call in self._routes.items()
        }
        self._whole_calls = {
            f"{call.method} {call.route}".encode(): call
            for call in CALLS
            if issubclass(call.body, AnswerBody) and traces is None
        }
        self._bundle.tell(answers.model_version)
        self.callers = callers or Callers()
        self._traces = traces
        self._openapi = orjson.dumps(describe(serving))
        self._origins = frozenset(origin.encode() for origin in serving.cors_origins)
        self._slow_s = serving.slow_request_ms / 1e3
        self._logs_requests = serving.log_requests

    @property
    def is_settled(self) -> bool:
        """Whether the requests that had waited for this process to start are worked off."""
        return bool(self._lanes) and self.dispatch.is_settled

    def close(self) -> None:
        """Let go of the threads."""
        self.dispatch.close()

    def connected(self) -> None:
        """Learn of a new connection."""
        if self._lanes:
            self.dispatch.connected()

    def lane_of(self, method: bytes, url: bytes) -> Lane | None:
        """Return where a call waits; None for what is no call, and for those with a field in their path."""
        return self._lanes.get(method + b" " + url.partition(b"?")[0])

    def refusal(self, headers: Headers) -> tuple[int, Headers, bytes]:
        """Return status, headers and body for a request that its lane does not let in."""
        known = {name: value for name, value in headers if name in _WANTED}
        reply = problem(503, OVERLOADED, retry_after(RETRY_AFTER_S))
        self.sign(reply, self.request_id(known), known)
        content = reply.body()
        return reply.status, reply.headers, content

    def whole(self, connection: Connection, method: bytes, url: bytes, headers: Headers) -> WholeRequest | None:
        """Return what answers a request without ASGI once its body has come; None where only ASGI knows it.

        That is: all but the calls of the event loop; bodies of unknown length, too long ones and encoded ones; what
        came through a proxy, which uvicorn looks at; and everything while spans are made.
        """
        path, _, query = url.partition(b"?")
        call = self._whole_calls.get(method + b" " + path)
        if call is None or query not in _KNOWN_QUERIES:
            return None
        known = {name: value for name, value in headers if name in _WANTED}
        if not _NOT_WHOLE.isdisjoint(known) or told_length(known) > call.max_body_bytes:
            return None
        return WholeRequest(self, connection, call, known, timings=bool(query))

    def sign(self, reply: Reply, request_id: str, headers: Mapping[bytes, bytes]) -> None:
        """Add the headers that every reply has."""
        reply.headers.append((b"x-request-id", request_id.encode()))
        reply.headers += self._for_browsers(headers)

    @staticmethod
    def request_id(headers: Mapping[bytes, bytes]) -> str:
        """Return the caller's id where it is short and of safe characters, else a new one."""
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode()
        return new_request_id()

    def note(self, name: str, reply: Reply, seconds: float) -> None:
        """Tell metrics and log."""
        family = reply.status // 100
        histogram = self._seconds.get((name, family))
        if histogram is None:
            histogram = self._seconds[name, family] = metrics.REQUEST_SECONDS.labels(name, f"{family}xx")
        histogram.observe(seconds)
        self._bundle.tell(self.dispatch.answers.model_version)
        if reply.degraded:
            metrics.count_degraded(reply.content["degraded_because"])  # type: ignore[index]
        if self._logs_requests or seconds > self._slow_s:
            _logger.log(
                *((logging.WARNING, "Slow request") if seconds > self._slow_s else (logging.INFO, "Request")),
                extra={
                    "call": name,
                    "status": reply.status,
                    "ms": round(seconds * 1e3, 3),
                    "degraded": reply.degraded,
                },
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on to BentoML."""
        if scope["type"] == "http" and (scope["path"] not in _BENTOML_PATHS or not self._may_pass(scope)):
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif self.behind is not None:
            await self.behind(scope, receive, send)
        elif scope["type"] == "http":
            await _send(send, Reply(404, {"error": "This is the application without BentoML behind it."}, []))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        headers = {name: value for name, value in scope["headers"] if name in _WANTED}
        request_id = self.request_id(headers)
        call = self._routes.get((scope["method"], scope["path"])) or self._find(scope["method"], scope["path"])
        name = call.name if call else "other"
        begin_request(request_id, began if call is None else self.dispatch.deadline(call, began))
        try:
            if self._traces is None:
                reply = await self._reply(call, scope, headers, receive, began)
            else:
                with self._traces.span(call.route if call else None, scope["headers"], request_id) as outcome:
                    reply = await self._reply(call, scope, headers, receive, began)
                    outcome.update(status=reply.status, degraded=reply.degraded)
        except ClientGoneError:
            return
        self.sign(reply, request_id, headers)
        await _send(send, reply)
        self.note(name, reply, time.monotonic() - began)

    async def _reply(
        self, call: Call | None, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, began: float
    ) -> Reply:
        """Return what goes out, whatever happens; an error is one sentence.

        Raises:
            ClientGoneError: there is nobody to reply to.
        """
        try:
            if call is None:
                return self._elsewhere(scope, headers)
            self.callers.admit(headers, _host(scope), call.scope, call.name)
            raw = await self._bodies.read(headers, receive, call.max_body_bytes)
            answer = await self.dispatch.answer(
                call,
                scope["path"],
                raw or (b"" if call.body.model_fields else b"{}"),
                timings=b"timings=1" in scope["query_string"].split(b"&"),
                deadline=self.dispatch.deadline(call, began),
                client=scope.get(CLIENT),
            )
            return Reply(call.status, answer, [])
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever happens, there is a reply
            return problem_of(error, call.name if call else "a request")

    def _find(self, method: str, path: str) -> Call | None:
        """Return the call with a field in its path."""
        for prefix, call in self._prefixes:
            if method == call.method and len(path) > len(prefix) and path.startswith(prefix):
                return call
        return None

    def _elsewhere(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Reply:
        """Answer what is no call: the pages, other methods, unknown paths.

        Raises:
            RequestError: metrics for somebody who may not have them.
        """
        method, path = scope["method"], scope["path"]
        if path in _BENTOML_PATHS:
            self.callers.admit(headers, _host(scope), None, "metrics")
        is_page = path in (_OVERVIEW, _OPENAPI)
        methods = ["GET", "HEAD"] if is_page else self._methods_of(path)
        if not methods:
            calls = ", ".join(f"{call.method} {call.route}" for call in CALLS)
            return problem(404, f"There is no {method[:20]} {path[:100]}: there are {calls}.")
        allow = (b"allow", ", ".join([*methods, "OPTIONS"]).encode())
        if method == "OPTIONS":
            return Reply(204, b"", [allow, *(_preflight(methods) if self._for_browsers(headers) else [])])
        if method not in methods:
            takes = "GET" if is_page else f"{' or '.join(methods)} with a JSON body"
            return problem(405, f"{path[:100]} takes {takes}, not {method[:20]}.", allow)
        if path == _OPENAPI:
            return Reply(200, self._openapi, [])
        calls = {f"{call.method} {call.route}": summary(call.name) for call in CALLS}
        return Reply(200, {"service": "headrace", "calls": calls, "described in": _OPENAPI}, [])

    def _methods_of(self, path: str) -> list[str]:
        exact = [call.method for (_, route), call in self._routes.items() if route == path]
        return exact + [call.method for prefix, call in self._prefixes if path.startswith(prefix) and path != prefix]

    def _may_pass(self, scope: Scope) -> bool:
        """Whether a request goes through to BentoML: health checks do, metrics for this machine or with any key."""
        if scope["path"] != "/metrics":
            return True
        headers = {name: value for name, value in scope["headers"] if name in callers.HEADERS}
        if is_of_this_machine(headers, _host(scope)):
            return True
        try:
            self.callers.admit(headers, _host(scope), None, "metrics")
        except RequestError:
            return False
        return True

    def _for_browsers(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Return what lets a web page of one of `serving.cors_origins` read the answer."""
        origin = headers.get(b"origin")
        if origin is None or not (origin in self._origins or b"*" in self._origins):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"retry-after, x-request-id"),
            (b"vary", b"origin"),
        ]


def _host(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _preflight(methods: Sequence[str]) -> Headers:
    return [
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id"),
        (b"access-control-max-age", b"600"),
    ]


async def _send(send: Send, reply: Reply) -> None:
    raw = reply.body()
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": raw})
