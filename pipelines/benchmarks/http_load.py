"""A light HTTP client for benches: one thread, many connections, requests made beforehand, every answer timed.

Closed loop: each of some clients sends its next request when the last one is answered. Open loop: requests are due at
given times whether or not earlier ones are answered, and a latency counts from the time the request was due, so that a
service that stalls cannot hide the requests it kept from being sent ("coordinated omission").

Source: Tene (2013), "How NOT to Measure Latency"; Schroeder et al. (2006), "Open Versus Closed: A Cautionary Tale".
"""

import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

TIMEOUT_S = 10.0
"""After so long a request counts as failed."""
_IDLE_S = 2.0
"""A connection that was idle for longer is not used again: the server may be about to close it."""
_CHECK_S = 0.1
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE_BYTES = 1 << 18
_MOST_SELECTED = 1_024
"""`select` takes no file of a higher number; a process with so many waits by the millisecond."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request."""

    index: int
    status: int
    """0 where there was no answer; `problem` says why."""
    head: bytes
    body: bytes
    due_s: float
    """When it was to be sent, by `time.perf_counter`; in a closed loop when it was sent."""
    sent_s: float
    done_s: float
    problem: str = ""

    @property
    def latency_ms(self) -> float:
        """From the time it was due."""
        return 1e3 * (self.done_s - self.due_s)

    @property
    def is_ok(self) -> bool:
        """Whether the status is 2xx."""
        return self.status // 100 == 2


NextRequest = Callable[[int], bytes | None]
"""Gives the request with a number; None where there is no more."""
Answered = Callable[[Answer], None]


def http_request(
    call: str, body: Any = None, *, method: str = "POST", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole HTTP/1.1 request with a JSON body (`bytes` are sent as they are)."""
    content = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
    lines = [f"{method} /{call} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


def poisson_times(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Return the times, float64 `(n,)` in s, ascending, of independent arrivals at `rate` a second."""
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    gaps = generator.exponential(1 / rate, int(expected + 6 * expected**0.5 + 20))
    times = np.cumsum(gaps)
    return times[times < seconds]


def endless_poisson_times(rate: float, seed: int) -> Iterator[float]:
    """Yield the times, in s, of independent arrivals at `rate` a second, on and on."""
    generator = np.random.default_rng(seed)
    now = 0.0
    while True:
        for gap in generator.exponential(1 / rate, 1_000).tolist():
            now += gap
            yield now


def closed_loop(
    port: int, next_request: NextRequest, answered: Answered, *, clients: int, timeout_s: float = TIMEOUT_S
) -> float:
    """Let clients send one request after the other until there is none; return the seconds."""
    driver = _Driver(port, next_request, answered, clients, timeout_s)
    return driver.run_closed()


def open_loop(
    port: int,
    next_request: NextRequest,
    answered: Answered,
    due_s: Iterator[float],
    *,
    connections: int = 1_000,
    timeout_s: float = TIMEOUT_S,
) -> float:
    """Send each request when it is due, over as many connections as that takes; return the seconds.

    Args:
        due_s: Times from the start, ascending; the end of them, or of the requests, is the end.
        connections: The most; a request that finds none free waits for one, and its latency grows.
    """
    driver = _Driver(port, next_request, answered, connections, timeout_s)
    return driver.run_open(due_s)


class _Connection:
    """One socket and the request that is on its way."""

    __slots__ = ("buffer", "due_s", "index", "received", "sent_s", "socket")

    def __init__(self, port: int, timeout_s: float) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.index = -1
        self.due_s = self.sent_s = self.received = 0.0

    def send(self, raw: bytes) -> None:
        sent = self.socket.send(raw)
        if sent < len(raw):
            self.socket.sendall(raw[sent:])


class _Driver:
    """Sends, waits, and tells of answers."""

    def __init__(
        self, port: int, next_request: NextRequest, answered: Answered, connections: int, timeout_s: float
    ) -> None:
        self._port = port
        self._next_request = next_request
        self._answered = answered
        self._most = connections
        self._timeout_s = timeout_s
        self._epoll = select.epoll()
        self._busy: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._sent = 0
        self._checked_s = time.perf_counter()

    def run_closed(self) -> float:
        began = time.perf_counter()
        try:
            is_over = False
            while not is_over or self._busy:
                while not is_over and len(self._busy) < self._most:
                    raw = self._next_request(self._sent)
                    is_over = raw is None
                    if raw is not None:
                        self._send(raw, None)
                self._receive(_CHECK_S)
        finally:
            self._close()
        return time.perf_counter() - began

    def run_open(self, times: Iterator[float]) -> float:
        began = time.perf_counter()
        try:
            for after in times:
                raw = self._next_request(self._sent)  # before it is due: what makes it is not the service
                if raw is None:
                    break
                due = began + after
                while (left := due - time.perf_counter()) > 0 or len(self._busy) >= self._most:
                    self._receive(left if len(self._busy) < self._most else _CHECK_S)
                self._send(raw, due)
                self._receive(0)
            while self._busy:
                self._receive(_CHECK_S)
        finally:
            self._close()
        return time.perf_counter() - began

    def _send(self, raw: bytes, due_s: float | None) -> None:
        index, self._sent = self._sent, self._sent + 1
        sent_s = time.perf_counter()
        due = sent_s if due_s is None else due_s
        try:
            connection = self._connection(sent_s)
            connection.index, connection.due_s, connection.sent_s = index, due, sent_s
            self._busy[connection.socket.fileno()] = connection
            connection.send(raw)
        except OSError as error:
            problem = f"{type(error).__name__}: {error}"
            if connection_lost := next((one for one in self._busy.values() if one.index == index), None):
                self._drop(connection_lost)
            self._answered(Answer(index, 0, b"", b"", due, sent_s, time.perf_counter(), problem))

    def _connection(self, now_s: float) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if now_s - connection.received < _IDLE_S:
                return connection
            self._forget(connection)
        connection = _Connection(self._port, self._timeout_s)
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _receive(self, wait_s: float) -> None:
        """Wait so long for answers, to the microsecond (epoll itself waits whole milliseconds)."""
        number = self._epoll.fileno()
        if wait_s > 0 and number < _MOST_SELECTED:
            select.select([number], [], [], wait_s)
            wait_s = 0
        for number, _ in self._epoll.poll(wait_s):
            connection = self._busy.get(number)
            if connection is None:  # closed by the server while nobody used it
                self._forget_idle(number)
                continue
            self._read(connection)
        now = time.perf_counter()
        if now - self._checked_s > _CHECK_S:
            self._checked_s = now
            for connection in [one for one in self._busy.values() if now - one.sent_s > self._timeout_s]:
                self._fail(connection, f"no answer within {self._timeout_s:g} s")

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            return self._fail(connection, f"{type(error).__name__}: {error}")
        if not data:
            return self._fail(connection, "the server closed the connection before its answer was whole")
        buffer = connection.buffer + data if connection.buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or not _is_whole(buffer, end):
            connection.buffer = buffer
            return None
        done = time.perf_counter()
        head = buffer[:end]
        answer = Answer(
            connection.index, int(head[9:12]), head, buffer[end + 4 :], connection.due_s, connection.sent_s, done
        )
        connection.buffer, connection.received = b"", done
        del self._busy[connection.socket.fileno()]
        if b"\r\nconnection: close" in head.lower():
            self._forget(connection)
        else:
            self._idle.append(connection)
        return self._answered(answer)

    def _fail(self, connection: _Connection, problem: str) -> None:
        self._drop(connection)
        self._answered(
            Answer(connection.index, 0, b"", b"", connection.due_s, connection.sent_s, time.perf_counter(), problem)
        )

    def _drop(self, connection: _Connection) -> None:
        self._busy.pop(connection.socket.fileno(), None)
        self._forget(connection)

    def _forget_idle(self, number: int) -> None:
        for connection in [one for one in self._idle if one.socket.fileno() == number]:
            self._idle.remove(connection)
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        with suppress(OSError, ValueError):
            self._epoll.unregister(connection.socket.fileno())
        connection.socket.close()

    def _close(self) -> None:
        for connection in [*self._busy.values(), *self._idle]:
            connection.socket.close()
        self._epoll.close()


def _is_whole(buffer: bytes, end: int) -> bool:
    """Whether the answer whose head ends there has come to its end."""
    if found := _LENGTH.search(buffer, 0, end + 2):
        return len(buffer) >= end + 4 + int(found[1])
    if b"chunked" in buffer[:end].lower():
        return buffer.endswith(b"0\r\n\r\n")
    return True


@dataclass
class Tally:
    """What became of the requests of a phase."""

    seconds: float
    latencies_ms: np.ndarray
    """float64 `(n,)` of the answers with status 2xx, from when they were due."""
    statuses: np.ndarray
    """int16 `(n,)` of all requests; 0 where there was no answer."""
    late_ms: np.ndarray
    """float64 `(n,)`: how long after it was due each request was sent."""
    problems: list[str]
    """The first ones."""

    @property
    def failed(self) -> int:
        """Requests without a 2xx."""
        return len(self.statuses) - len(self.latencies_ms)

    @property
    def rate(self) -> float:
        """Answers with status 2xx a second."""
        return len(self.latencies_ms) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """Return a percentile of the latencies, ms; not a number where nothing was answered."""
        return float(np.percentile(self.latencies_ms, share)) if len(self.latencies_ms) else float("nan")


class Counting:
    """Takes answers and makes a `Tally` of them; every `keep_every`-th is kept for whoever looks into it."""

    def __init__(self, keep_every: int = 0) -> None:
        self._keep_every = keep_every
        self._rows: list[tuple[float, int, float]] = []
        self._problems: list[str] = []
        self.kept: list[Answer] = []

    def __call__(self, answer: Answer) -> None:
        """Take an answer."""
        self._rows.append((answer.latency_ms, answer.status, 1e3 * (answer.sent_s - answer.due_s)))
        if self._keep_every and answer.index % self._keep_every == 0:
            self.kept.append(answer)
        if not answer.is_ok and len(self._problems) < 10:
            self._problems.append(described(answer))

    def tally(self, seconds: float) -> Tally:
        """Return what was counted."""
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 3)
        statuses = rows[:, 1].astype(np.int16)
        return Tally(seconds, rows[statuses // 100 == 2, 0], statuses, rows[:, 2], self._problems)


def described(answer: Answer) -> str:
    """Say in short what went wrong."""
    return answer.problem or f"status {answer.status}: {answer.body.decode(errors='replace')[:200]}"
