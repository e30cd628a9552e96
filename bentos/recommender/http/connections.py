"""Connections that cost little and end: what uvicorn leaves open without a limit is limited here.

uvicorn reads heads of any length, waits for the rest of a request for ever, and keeps a connection that never asks. It
makes a task of each request: those that are refused because there are too many are answered here, before that.
"""

import asyncio
import resource
import select
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bentos.recommender.http.admission import ClientGoneError, Lane
from bentos.recommender.http.replies import Headers
from bentos.recommender.http.whole_requests import WholeRequest
from bentos.recommender.telemetry import metrics

CLIENT = "headrace.client"
"""Where a request's scope holds its connection, as an `admission.Client`."""
_LEFT = getattr(select, "POLLRDHUP", 0)
"""The event of a peer that will send no more; not every system knows it."""
_SEPARATORS = len(b": \r\n")


@dataclass(frozen=True)
class ConnectionLimits:
    """How much a connection may take; frozen per process."""

    max_head_bytes: int = 32 * 2**10
    """Method, path and headers of a request."""
    max_path_bytes: int = 8 * 2**10
    request_s: float = 10.0
    """From the first byte of a request to its last."""
    idle_s: float = 75.0
    """Without a request; longer than the load balancers' usual 60 s, which would use a closed connection otherwise."""
    unread_s: float = 30.0
    """An answer that the client does not read."""
    last_s: float = 1.0
    """What is left of a request may take so long once the process is to end."""
    sweep_s: float = 1.0
    """How often all connections are looked at."""


class _RefusedError(Exception):
    """Ends the parsing of a request."""


class Door(Protocol):
    """What knows which requests are too many."""

    @property
    def is_settled(self) -> bool:
        """Whether the requests that had waited for this process to start are worked off."""
        ...

    def connected(self) -> None:
        """Learn of a new connection."""
        ...

    def lane_of(self, method: bytes, url: bytes) -> Lane | None:
        """Return where a request waits; None where it need not ask."""
        ...

    def whole(self, connection: "Connection", method: bytes, url: bytes, headers: Headers) -> WholeRequest | None:
        """Return what answers a request without ASGI once its body has come; None where only ASGI knows it."""
        ...

    def refusal(self, headers: Headers) -> tuple[int, Headers, bytes]:
        """Return status, headers and body for a request that is not let in."""
        ...


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits on size and time; one sweep a second looks at all of them."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()
    door: ClassVar[Door | None] = None
    """None lets everybody in."""
    _overdue: ClassVar[dict[str, "OrderedDict[Connection, float]"]] = {
        "slow_request": OrderedDict(),
        "idle": OrderedDict(),
        "unread": OrderedDict(),
    }
    """By state, the connections in the order in which they entered it, and when; on the loop's clock."""
    _sweeping: ClassVar[asyncio.AbstractEventLoop | None] = None
    _default_headers: ClassVar[tuple[Headers, bytes]] = ([], b"")
    """Headers of every answer as uvicorn has them, and as lines."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = False  # our own log has what is needed
        self.timeout_keep_alive = self.limits.idle_s
        self._refusal = (400, "This is not a valid HTTP request.")
        self._head_bytes = 0
        self._in_head = True
        self._is_refused = False
        """Whether the request that is being read has its answer: what comes of it is thrown away."""
        self.turn: asyncio.Future[float] | None = None
        self._whole: WholeRequest | None = None
        """The request that is being read, as long as it may be answered without ASGI."""
        self._whole_body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        metrics.CONNECTIONS.inc()
        if self.door is not None:
            self.door.connected()
        self._since("idle")
        if Connection._sweeping is not self.loop:
            Connection._sweeping = self.loop
            for waiting in self._overdue.values():
                waiting.clear()
            self._since("idle")
            self.loop.call_later(self.limits.sweep_s, self._sweep, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        for waiting in self._overdue.values():
            waiting.pop(self, None)
        metrics.CONNECTIONS.dec()
        if self.turn is not None and not self.turn.done():
            self.turn.set_exception(ClientGoneError())
        super().connection_lost(exc)
        if isinstance(self.cycle, WholeRequest):
            self._let_go_of(self.cycle)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless the head of the request is too long."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._whole is not None:  # more of it is to come
            self._leave_to_asgi()
        if self._in_head and self._head_bytes > self.limits.max_head_bytes and not self.transport.is_closing():
            self._refuse_head()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start the clock of the request."""
        super().on_message_begin()
        self._overdue["idle"].pop(self, None)
        self._since("slow_request")

    def on_headers_complete(self) -> None:
        """Check the head, and hand the request on if there are not too many.

        Raises:
            _RefusedError: it is too long; uvicorn then answers what `_refusal` says.
        """
        if len(self.url) > self.limits.max_path_bytes:
            self._refusal = (414, f"The path is longer than {self.limits.max_path_bytes // 2**10} KiB: shorten it.")
            raise _RefusedError
        if (
            self._head_bytes > self.limits.max_head_bytes
            and sum(len(name) + len(value) + _SEPARATORS for name, value in self.headers) > self.limits.max_head_bytes
        ):
            self._refuse_head()
            raise _RefusedError
        if self.parser.should_upgrade() and self._should_upgrade() and self._has_body():
            self._refusal = (400, "There are no websockets here: send the request without the header Upgrade.")
            raise _RefusedError
        if self._may_enter():
            self._whole, self._whole_body = self._as_whole(), b""
            if self._whole is None:
                self._leave_to_asgi()
        self._in_head = False  # not before: an address that uvicorn cannot read is refused as a head

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body, if it is still wanted."""
        if self._whole is not None:
            self._whole_body += body
        elif not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock of the request."""
        self._overdue["slow_request"].pop(self, None)
        self._in_head, self._head_bytes = True, 0
        if self._is_refused:
            self._is_refused = False
            self._since("idle")
        elif self._whole is not None:
            self.cycle, self._whole = self._whole, None  # type: ignore[assignment]
            self.cycle.take(self._whole_body)  # type: ignore[attr-defined]
        else:
            super().on_message_complete()

    @property
    def host(self) -> str:
        """Address of the peer; empty where it is not known."""
        return self.client[0] if self.client else ""

    def keep(self, task: "asyncio.Task[None]") -> None:
        """Let the process not end before a task does."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def send_reply(self, whole: WholeRequest, status: int, headers: Headers, content: bytes) -> None:
        """Answer a whole request, and go on with what came behind it."""
        whole.response_complete = True
        self._let_go_of(whole)
        if self.transport.is_closing():
            return
        lines = [STATUS_LINE[status], self._default_lines()]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if not whole.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += [b"\r\n", content]
        self.transport.write(b"".join(lines))
        if not whole.keep_alive:
            self.transport.close()
        if self.pipeline:
            self.on_response_complete()
        else:  # as that does, but the sweep closes what is idle instead of a timer for each answer
            self.server_state.total_requests += 1
            self._since("idle")

    def shutdown(self) -> None:
        """End when the request is answered, or before if it does not come or its answer is not read."""
        super().shutdown()
        if not self.transport.is_closing():
            self.loop.call_later(self.limits.last_s, self._end_unfinished)

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self._since("unread")
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        self._overdue["unread"].pop(self, None)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Answer a request that cannot be read, as all others, with a sentence; and close the connection."""
        if self.transport.is_closing():
            return
        if self._is_refused:
            self.transport.close()
            return
        before = self.cycle is None or self.cycle.response_complete
        if before if self._in_head else not self.cycle.response_started:
            status, sentence = self._refusal
            content = orjson.dumps({"error": sentence})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + content)
        self.transport.close()

    def _has_body(self) -> bool:
        """Whether the head that has come says that a body comes behind it."""
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
            for name, value in self.headers
        )

    def _may_enter(self) -> bool:
        """Whether the request whose head has come is to be answered; if not, it has been refused."""
        lane = self.door.lane_of(self.parser.get_method(), self.url) if self.door is not None else None
        if self.door is None or lane is None or not (self.cycle is None or self.cycle.response_complete):
            return True
        if not lane.is_free and not self.door.is_settled and self._has_left():
            self._is_refused = True
            self.transport.abort()
        elif not lane.lets_in():
            self._is_refused = True
            self._write_refusal(*self.door.refusal(self.headers))
        return not self._is_refused

    def _as_whole(self) -> WholeRequest | None:
        """Return what may answer the request whose head has come if its body comes too; None for the way of ASGI."""
        is_plain = (
            self.door is not None
            and (self.cycle is None or self.cycle.response_complete)
            and not (self.expect_100_continue or self.flow.write_paused or self.root_path)
            and self.limit_concurrency is None
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and self.parser.get_http_version() == "1.1"
        )
        if not is_plain or self.door is None:
            return None
        return self.door.whole(self, self.parser.get_method(), self.url, self.headers)

    def _leave_to_asgi(self) -> None:
        """Let uvicorn hand the request on, with what has come of its body."""
        self._whole = None
        self.scope[CLIENT] = self  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        if self._whole_body:
            super().on_body(self._whole_body)

    def _let_go_of(self, whole: WholeRequest) -> None:
        """Hold an answered request no longer: both would stay until the garbage collector comes by."""
        if self.cycle is whole:
            self.cycle = None  # type: ignore[assignment]

    def _default_lines(self) -> bytes:
        """Return the headers that uvicorn adds to every answer; it makes them anew once a second."""
        headers = self.server_state.default_headers
        if headers is not Connection._default_headers[0]:
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            Connection._default_headers = headers, lines
        return Connection._default_headers[1]

    def _has_left(self) -> bool:
        """Whether the client has gone although its request has come, as many do who wait for a process to start."""
        if not _LEFT:
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), _LEFT)
        return bool(poll.poll(0))

    def _write_refusal(self, status: int, headers: Headers, content: bytes) -> None:
        """Answer without a task; who was told to wait with its body, or asks no more, is not read any further."""
        closes = self.expect_100_continue or not self.parser.should_keep_alive()
        lines = [STATUS_LINE[status], *(b"%b: %b\r\n" % header for header in headers)]
        if closes:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join([*lines, b"\r\n", content]))
        if closes:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refusal = (
            431,
            f"The headers are longer than {self.limits.max_head_bytes // 2**10} KiB: send fewer or shorter ones.",
        )

    def _since(self, state: str) -> None:
        waiting = self._overdue[state]
        waiting[self] = self.loop.time()
        waiting.move_to_end(self)

    @classmethod
    def _sweep(cls, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections that have been in a state for too long."""
        now = loop.time()
        allowed = {"slow_request": cls.limits.request_s, "idle": cls.limits.idle_s, "unread": cls.limits.unread_s}
        for state, waiting in cls._overdue.items():
            while waiting:
                connection, since = next(iter(waiting.items()))
                if now - since <= allowed[state]:
                    break
                del waiting[connection]
                metrics.CLOSED_CONNECTIONS.labels(state).inc()
                connection._end(state)
        loop.call_later(cls.limits.sweep_s, cls._sweep, loop)

    def _end_unfinished(self) -> None:
        if self in self._overdue["slow_request"]:
            self._refusal = (408, "The request was not complete when the server ended: send it again.")
            self.send_400_response("")
        elif self in self._overdue["unread"]:
            self.transport.abort()

    def _end(self, state: str) -> None:
        if state == "slow_request":
            self._refusal = (408, f"The request was not complete after {self.limits.request_s:.0f} s: send it again.")
            self.send_400_response("")
        elif state == "unread":
            self.transport.abort()
        else:
            self.transport.close()


def limit_connections(door: Door | None = None) -> None:
    """Make uvicorn use these connections wherever no other kind is named, and open as many as the system lets it.

    Args:
        door: What says who is refused at once.
    """
    Connection.door = door
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or hard == resource.RLIM_INFINITY:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # more than this system allows: what there was stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
