"""The HTTP side: a plain ASGI application in front of BentoML's own, which adds 2 to 3 ms of CPU to each request.

Our calls are answered here; health checks and metrics go through to BentoML. What need not wait is answered in the
event loop, what has to wait (a user's features that are not in memory, the disk) in a bounded number of threads.
"""

import asyncio
import contextvars
import logging
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson

from bentos.recommender import metrics
from bentos.recommender.admission import Lane, OverloadedError
from bentos.recommender.callers import HEADERS, Callers, RateLimitedError, is_of_this_machine
from bentos.recommender.calls import CALLS, Call, LaneName
from bentos.recommender.current_request import begin_request
from bentos.recommender.openapi import describe, summary
from bentos.recommender.requests import Body, RequestError, parse, parse_field
from pipelines.config import ServingConfig

if TYPE_CHECKING:
    from bentos.recommender.answers import Answers

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_WANTED = HEADERS | {b"content-length", b"content-encoding", b"x-request-id"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_BENTOML_PATHS = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})
_OVERVIEW, _OPENAPI = "/", "/openapi.json"
_MAX_BYTES_IN_TRANSIT = 128 * 2**20
"""Of all bodies that are being read, together."""
_RETRY_AFTER_S = 1
_ADMIN_DEADLINE_S = 60.0
_MAX_WAITING_ADMIN = 4
_OVERLOADED = "The server is busy: send the request again after the seconds that Retry-After gives."
_TOO_SLOW = "The answer was not ready in time: send the request again after the seconds that Retry-After gives."
_BUG = "Something unexpected happened; it is in the server's log. Try again, and report it if it stays."
_logger = logging.getLogger("headrace.serving")


class _Gone(Exception):  # noqa: N818 - not an error
    """The client left before its request was complete."""


class Api:
    """The application; it answers once `open` was called."""

    def __init__(self, behind: ASGIApp | None = None) -> None:
        """Take BentoML's application, where there is one."""
        self.behind = behind
        self._callers = Callers()
        self._origins: frozenset[bytes] = frozenset()
        self._bundle = metrics.BundleInfo()
        self._routes = {(call.method, call.route): call for call in CALLS if call.path_field is None}
        self._prefixes = [(call.route.partition("{")[0], call) for call in CALLS if call.path_field is not None]
        self._seconds: dict[tuple[str, int], Any] = {}
        self._bytes_in_transit = 0

    def open(self, answers: "Answers", *, callers: Callers | None = None) -> None:
        """Begin to answer; without `callers`, only this machine."""
        serving: ServingConfig = answers.serving
        self._answers = answers
        self._callers = callers or Callers()
        self._openapi = orjson.dumps(describe(serving))
        self._origins = frozenset(origin.encode() for origin in serving.cors_origins)
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
        self._deadline_s: dict[LaneName, float] = {
            "answers": serving.deadline_ms / 1e3,
            "writes": serving.write_deadline_ms / 1e3,
            "admin": _ADMIN_DEADLINE_S,
        }

    def close(self) -> None:
        """Let go of the threads."""
        for pool in self._threads.values():
            pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on to BentoML."""
        if scope["type"] == "http" and (scope["path"] not in _BENTOML_PATHS or not self._may_pass(scope)):
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif self.behind is not None:
            await self.behind(scope, receive, send)
        elif scope["type"] == "http":
            await _respond(send, 404, {"error": "This is the application without BentoML behind it."}, [])

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        headers = {name: value for name, value in scope["headers"] if name in _WANTED}
        request_id = _request_id(headers)
        call, extra = None, [(b"x-request-id", request_id.encode()), *self._for_browsers(headers)]
        try:
            call = self._routes.get((scope["method"], scope["path"])) or self._find(scope["method"], scope["path"])
            if call is None:
                status, content, more = self._elsewhere(scope, headers)
                extra += more
            else:
                self._callers.admit(headers, _host(scope), call.scope, call.name)
                begin_request(request_id, began + self._deadline_s[call.lane])
                content = await self._answer(call, scope, headers, receive, began)
                status = call.status
        except _Gone:
            return
        except RequestError as error:
            status, content = error.status, {"error": str(error)}
            if isinstance(error, RateLimitedError):
                extra.append(_retry_after(math.ceil(error.retry_after_s)))
            elif status == 503:
                extra.append(_retry_after(_RETRY_AFTER_S))
            elif status == 401:
                extra.append((b"www-authenticate", b"Bearer"))
        except OverloadedError:
            status, content = 503, {"error": _OVERLOADED}
            extra.append(_retry_after(_RETRY_AFTER_S))
        except TimeoutError:
            status, content = 503, {"error": _TOO_SLOW}
            extra.append(_retry_after(_RETRY_AFTER_S))
        except Exception as error:
            _logger.error("Unexpected error in %s", call.name if call else "a request", exc_info=error)
            status, content = 500, {"error": _BUG}
        await _respond(send, status, content, extra)
        self._measure(call, status, time.monotonic() - began)

    async def _answer(
        self, call: Call, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, began: float
    ) -> dict[str, Any]:
        raw = await self._read_body(call, headers, receive) or (b"" if call.body.model_fields else b"{}")
        timings = bool(scope["query_string"]) and parse_qs(scope["query_string"]).get(b"timings") == [b"1"]
        method: Callable[[Body], dict[str, Any]] = getattr(self._answers, call.name)
        deadline = began + self._deadline_s[call.lane]
        if call.lane == "answers":
            body = _parse(call, scope["path"], raw, timings=timings)
            answer = await self._answer_at_once(method, body)
            if answer is None:
                answer = await self._in_thread(call.lane, lambda: method(body), deadline)
        else:  # a large body takes milliseconds to parse, and the disk is waited for
            answer = await self._in_thread(
                call.lane, lambda: method(_parse(call, scope["path"], raw, timings=timings)), deadline
            )
        if answer.get("degraded"):
            metrics.count_degraded(answer.get("degraded_because", []))
        return answer

    async def _answer_at_once(self, method: Callable[[Body], dict[str, Any]], body: Body) -> dict[str, Any] | None:
        """Answer in the event loop; None where something must be waited for."""
        entered = await self._inline.enter()
        waits = self._answers.must_wait(body)  # asked when the turn has come: what is known may have changed since
        try:
            return None if waits else method(body)
        finally:
            self._inline.leave(entered, counts=not waits)

    async def _in_thread(self, name: LaneName, work: Callable[[], dict[str, Any]], deadline: float) -> dict[str, Any]:
        """Run in a thread.

        Raises:
            TimeoutError: it is not done at the deadline; its place is taken until it is.
        """
        lane = self._lanes[name]
        entered = await lane.enter()
        run = contextvars.copy_context().run
        future = asyncio.get_running_loop().run_in_executor(self._threads[name], run, work)

        def leave(done: asyncio.Future[dict[str, Any]]) -> None:
            lane.leave(entered)
            if not done.cancelled():
                done.exception()  # looked at, also where nobody waits any more

        future.add_done_callback(leave)
        done, _ = await asyncio.wait({future}, timeout=max(deadline - time.monotonic(), 0.0))
        if not done:
            raise TimeoutError
        return future.result()

    async def _read_body(self, call: Call, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            RequestError: it is too large, or compressed.
        """
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError(415, "The body is compressed, which this server does not read: send it as it is.")
        limit = call.max_body_bytes
        if (told := headers.get(b"content-length", b"0")).isdigit() and int(told) > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        raw: bytes = message.get("body", b"")
        if len(raw) <= limit and not message.get("more_body", False):
            return raw
        pieces, size = [], 0
        try:
            while True:
                size += len(raw)
                self._bytes_in_transit += len(raw)
                if size > limit:
                    raise _too_large(limit)
                if self._bytes_in_transit > _MAX_BYTES_IN_TRANSIT:
                    metrics.SHED.labels("bodies", "too_many_bytes").inc()
                    raise OverloadedError("too_many_bytes")
                pieces.append(raw)
                if not message.get("more_body", False):
                    return b"".join(pieces)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                raw = message.get("body", b"")
        finally:
            self._bytes_in_transit -= size

    def _find(self, method: str, path: str) -> Call | None:
        """Return the call with a field in its path."""
        for prefix, call in self._prefixes:
            if method == call.method and len(path) > len(prefix) and path.startswith(prefix):
                return call
        return None

    def _may_pass(self, scope: Scope) -> bool:
        """Whether a request goes through to BentoML: health checks do, metrics for this machine or with any key."""
        if scope["path"] != "/metrics":
            return True
        headers = {name: value for name, value in scope["headers"] if name in HEADERS}
        if is_of_this_machine(headers, _host(scope)):
            return True
        try:
            self._callers.admit(headers, _host(scope), None, "metrics")
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

    def _elsewhere(self, scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[int, dict[str, Any] | bytes, Headers]:
        """Answer what is no call: the pages, other methods, unknown paths.

        Raises:
            RequestError: metrics for somebody who may not have them.
        """
        method, path = scope["method"], scope["path"]
        if path in _BENTOML_PATHS:
            self._callers.admit(headers, _host(scope), None, "metrics")
        if path in (_OVERVIEW, _OPENAPI):
            methods = ["GET", "HEAD"]
        else:
            methods = [call.method for call in CALLS if call.path_field is None and call.route == path]
            methods += [call.method for prefix, call in self._prefixes if path.startswith(prefix) and path != prefix]
        if not methods:
            calls = ", ".join(f"{call.method} {call.route}" for call in CALLS)
            return 404, {"error": f"There is no {method[:20]} {path[:100]}: there are {calls}."}, []
        allow = (b"allow", ", ".join([*methods, "OPTIONS"]).encode())
        if method == "OPTIONS":
            return 204, b"", [allow, *(_preflight(methods) if self._for_browsers(headers) else [])]
        if path == _OPENAPI and method in methods:
            return 200, self._openapi, []
        if path == _OVERVIEW and method in methods:
            calls = {f"{call.method} {call.route}": summary(call.name) for call in CALLS}
            return 200, {"service": "headrace", "calls": calls, "described in": _OPENAPI}, []
        takes = f"{' or '.join(methods)} with a JSON body" if path not in (_OVERVIEW, _OPENAPI) else "GET"
        return 405, {"error": f"{path[:100]} takes {takes}, not {method[:20]}."}, [allow]

    def _measure(self, call: Call | None, status: int, seconds: float) -> None:
        name, family = call.name if call else "other", status // 100
        histogram = self._seconds.get((name, family))
        if histogram is None:
            histogram = self._seconds[name, family] = metrics.REQUEST_SECONDS.labels(name, f"{family}xx")
        histogram.observe(seconds)
        self._bundle.tell(self._answers.model_version)


def _parse(call: Call, path: str, raw: bytes, *, timings: bool) -> Body:
    if (field := call.path_field) is not None:
        return parse_field(call.body, field, path[len(call.route.partition("{")[0]) :])
    body = parse(call.body, raw)
    return body.model_copy(update={"timings": True}) if timings and "timings" in call.body.model_fields else body


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """Return the caller's id where it is short and of safe characters, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return uuid.uuid4().hex


def _host(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _preflight(methods: Sequence[str]) -> Headers:
    return [
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id"),
        (b"access-control-max-age", b"600"),
    ]


def _too_large(limit: int) -> RequestError:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return RequestError(413, f"The body is larger than {size}: send less at once, events in parts.")


def _retry_after(seconds: int) -> tuple[bytes, bytes]:
    return b"retry-after", str(seconds).encode()


async def _respond(
    send: Send, status: int, content: dict[str, Any] | bytes, extra: Sequence[tuple[bytes, bytes]]
) -> None:
    raw = content if isinstance(content, bytes) else orjson.dumps(content)
    headers = (
        [*extra]
        if status == 204
        else [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(raw)).encode()),
            *extra,
        ]
    )
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})
