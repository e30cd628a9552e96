"""Connections over real sockets: what is too long, too slow or never comes; many that do nothing."""

import asyncio
import json
import resource
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
import uvicorn
from uvicorn.server import ServerState

from bentos.recommender.http.api import Api
from bentos.recommender.http.connections import Connection, ConnectionLimits, limit_connections
from pipelines.config import ServingConfig

BODY = b'{"query": "milk"}'
HEAD = b"POST /search HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n" % len(BODY)


class Quick(Connection):
    """With limits that a test can wait for."""

    limits = ConnectionLimits(
        max_head_bytes=4_096, max_path_bytes=512, request_s=0.15, idle_s=0.4, unread_s=0.1, sweep_s=0.02
    )


class Echo:
    """Answers what it was asked; `big` answers more than a socket takes."""

    serving = ServingConfig()
    model_version = "b1"

    def give_way(self, is_busy) -> None:
        pass

    def must_wait(self, body) -> bool:
        return False

    def search(self, body) -> dict:
        if body.query == "big":
            return {"text": "x" * 20_000_000}
        return {"query": body.query}


@contextmanager
def running(app, protocol):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1_024)
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, lifespan="off", loop="uvloop"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield server, listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(timeout=5)


@contextmanager
def serving(app, protocol):
    with running(app, protocol) as (_, port):
        yield port


@pytest.fixture(scope="module")
def port():
    app = Api()
    app.open(Echo())
    with serving(app, Quick) as port:
        yield port
    app.close()


@pytest.fixture
def talk(port):
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict]:
    """Read one answer and nothing of the next."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += (byte := connection.recv(1))
        assert byte, head
    lines = head.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return int(head.split()[1]), json.loads(body)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(65_536) == b""
    except ConnectionError:
        return True


def test_one_connection_asks_again_and_again(talk):
    for _ in range(3):
        talk.sendall(HEAD + b"\r\n" + BODY)
        assert answer(talk) == (200, {"query": "milk"})


def test_requests_that_come_in_one_piece_are_answered_in_order(talk):
    talk.sendall(b"".join(HEAD + b"\r\n" + BODY.replace(b"milk", word) for word in (b"rice", b"beer", b"eggs")))
    assert [answer(talk)[1]["query"] for _ in range(3)] == ["rice", "beer", "eggs"]


def test_a_request_may_come_byte_by_byte_and_in_chunks(talk):
    for byte in HEAD + b"\r\n" + BODY:
        talk.sendall(bytes([byte]))
    assert answer(talk) == (200, {"query": "milk"})
    talk.sendall(b"POST /search HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
    talk.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert answer(talk) == (200, {"query": "milk"})


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        pytest.param(HEAD + b"X: " + b"y" * 5_000 + b"\r\n\r\n" + BODY, 431, "longer than 4 KiB", id="long header"),
        pytest.param(HEAD + b"a: b\r\n" * 1_000 + b"\r\n" + BODY, 431, "longer than 4 KiB", id="many headers"),
        pytest.param(HEAD + b"X: " + b"y" * 9_000, 431, "longer than 4 KiB", id="header without an end"),
        pytest.param(b"GET /" + b"x" * 600 + b" HTTP/1.1\r\nHost: here\r\n\r\n", 414, "shorten it", id="long path"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, "not a valid HTTP request", id="TLS on this port"),
        pytest.param(b"BREW / HTTP/9.9\r\n\r\n", 400, "not a valid HTTP request", id="another protocol"),
        pytest.param(b"CONNECT here:80 HTTP/1.1\r\n\r\n", 400, "not a valid HTTP request", id="a tunnel"),
        pytest.param(
            b"GET http:///search HTTP/1.1\r\n\r\n", 400, "not a valid HTTP request", id="an address without a host"
        ),
        pytest.param(
            HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + BODY, 400, "no websockets", id="websocket"
        ),
        pytest.param(HEAD, 408, "not complete after 0 s: send it again", id="head that stops"),
        pytest.param(HEAD + b"\r\n" + BODY[:5], 408, "not complete after 0 s: send it again", id="body that stops"),
    ],
)
def test_what_is_too_long_or_too_slow_is_refused_and_the_connection_closed(talk, sent, status, sentence):
    talk.sendall(sent)
    found, content = answer(talk)
    assert (found, list(content)) == (status, ["error"])
    assert sentence in content["error"]
    assert is_closed(talk)


def test_a_chunked_body_that_does_not_end_is_refused(talk):
    talk.sendall(b"POST /search HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    talk.sendall(piece * 2)
    assert answer(talk) == (413, {"error": "The body is larger than 64 KiB: send less at once, events in parts."})
    with suppress(ConnectionError):
        while time.sleep(0.02) is None:
            talk.sendall(piece)  # until the time of a request is over
    assert is_closed(talk)


def test_a_connection_that_never_asks_is_closed(talk):
    began = time.monotonic()
    assert is_closed(talk)
    assert 0.3 < time.monotonic() - began < 3


def test_an_answer_that_is_not_read_is_given_up(talk):
    body = b'{"query": "big"}'
    talk.sendall(b"POST /search HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    time.sleep(1)  # longer than the limit on writing, also on a busy machine
    received = 0
    with suppress(ConnectionError):
        while piece := talk.recv(2**20):  # what was sent before
            received += len(piece)
    assert received < 20_000_000


@pytest.mark.parametrize("count", [500, pytest.param(8_000, marks=pytest.mark.slow)])
def test_many_idle_connections_hold_up_nobody(count):
    limit_connections()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard
    app = Api()
    app.open(Echo())
    with serving(app, Connection) as port, ExitStack() as held:
        for _ in range(count):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        talk = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        talk.sendall(HEAD + b"\r\n" + BODY)
        assert answer(talk) == (200, {"query": "milk"})
    app.close()


class Full:
    """A lane that is not free, and takes nobody."""

    is_free = False

    def lets_in(self) -> bool:
        return False


class FullApi(Api):
    """Takes no searches."""

    def lane_of(self, method, url):
        return Full() if super().lane_of(method, url) is not None and b"timings" not in url else None


@pytest.fixture(scope="module")
def full_port():
    app = FullApi()
    app.open(Echo())
    protocol = type("Busy", (Quick,), {"door": app})
    with serving(app, protocol) as port:
        yield port
    app.close()


BUSY = (503, {"error": "The server is busy: send the request again after the seconds that Retry-After gives."})


def test_a_request_that_is_too_many_is_refused_at_once_and_the_connection_goes_on(full_port):
    with closing(socket.create_connection(("127.0.0.1", full_port), timeout=5)) as talk:
        asking = HEAD + b"X-Request-ID: shop-1\r\n\r\n" + BODY
        talk.sendall(asking)
        head = b""
        while b"\r\n\r\n" not in head:
            head += talk.recv(1)
        for line in (b"HTTP/1.1 503 Service Unavailable", b"retry-after: 1", b"x-request-id: shop-1"):
            assert line in head.split(b"\r\n")
        talk.recv(65_536)
        talk.sendall(asking[:-5])
        assert answer(talk) == BUSY  # before the body is there
        talk.sendall(BODY[-5:])
        talk.sendall(asking.replace(b"/search", b"/search?timings=1"))
        assert answer(talk) == (200, {"query": "milk"})  # what nobody refuses is answered on the same connection
        talk.sendall(asking + asking)
        assert [answer(talk), answer(talk)] == [BUSY, BUSY]


def test_who_closes_after_one_answer_is_refused_with_that(full_port):
    for more in (b"Connection: close\r\n", b"Expect: 100-continue\r\n"):
        with closing(socket.create_connection(("127.0.0.1", full_port), timeout=5)) as talk:
            talk.sendall(HEAD + more + b"\r\n")
            assert answer(talk) == BUSY
            assert is_closed(talk)


def test_a_refused_body_that_stops_ends_the_connection_without_another_answer(full_port):
    with closing(socket.create_connection(("127.0.0.1", full_port), timeout=5)) as talk:
        talk.sendall(HEAD + b"\r\n" + BODY[:5])
        assert answer(talk) == BUSY
        assert is_closed(talk)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(HEAD, None, id="half a head"),
        pytest.param(HEAD + b"\r\n" + BODY[:5], 408, id="half a body"),
        pytest.param(HEAD.replace(b"17", b"16") + b"\r\n" + b'{"query": "big"}', 200, id="an answer that is not read"),
    ],
)
def test_a_client_that_hangs_holds_up_no_end(sent, status):
    class Patient(Connection):
        limits = ConnectionLimits(last_s=0.1)

    app = Api()
    app.open(Echo())
    with running(app, Patient) as (server, port), socket.create_connection(("127.0.0.1", port), timeout=5) as talk:
        talk.sendall(sent)
        time.sleep(0.05)
        server.should_exit = True
        began = time.monotonic()
        while server.server_state.connections:
            assert time.monotonic() - began < 5
            time.sleep(0.01)
        with suppress(ConnectionError):
            head = talk.recv(12)
            assert head == (b"" if status is None else b"HTTP/1.1 %d" % status)
    app.close()


class OneThread(Echo):
    """Answers in one thread, when it is let go."""

    serving = ServingConfig(answer_threads=1)

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[str] = []

    def must_wait(self, body) -> bool:
        return True

    def search(self, body) -> dict:
        self.asked.append(body.query)
        self.go_on.wait(5)
        return {"query": body.query}


def test_a_client_that_left_while_it_waited_is_not_answered():
    app, answers = Api(), OneThread()
    app.open(answers)
    lane = app.dispatch._lanes["answers"]

    def ask_and_wait(held: ExitStack, port: int, word: bytes, waiting: int) -> socket.socket:
        talk = held.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=5)))
        talk.sendall(HEAD + b"\r\n" + BODY.replace(b"milk", word))
        while not (answers.asked and lane.waiting == waiting):
            time.sleep(0.001)
        return talk

    with serving(app, Connection) as port, ExitStack() as held:
        first = ask_and_wait(held, port, b"rice", 0)
        ask_and_wait(held, port, b"beer", 1).close()
        while lane.waiting:
            time.sleep(0.001)
        last = ask_and_wait(held, port, b"eggs", 1)
        answers.go_on.set()
        assert [answer(one)[1]["query"] for one in (first, last)] == ["rice", "eggs"]
    app.close()
    assert answers.asked == ["rice", "eggs"]


class Wire:
    """A transport that writes nowhere, over a real socket."""

    def __init__(self, end: socket.socket) -> None:
        self.end, self.written, self.aborted = end, b"", False

    def get_extra_info(self, name, default=None):
        return self.end if name == "socket" else default

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted


@pytest.mark.parametrize(
    ("settled", "left", "aborted"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_who_left_before_the_process_was_up_takes_no_place_in_the_queue(settled, left, aborted):
    class Door(FullApi):
        is_settled = settled

    async def arrive() -> Wire:
        app = Door()
        app.open(Echo())
        config = uvicorn.Config(app, log_config=None)
        config.load()
        here, there = socket.socketpair()
        with here, there:
            wire = Wire(here)
            connection = type("Busy", (Quick,), {"door": app})(config, ServerState(), {}, asyncio.get_running_loop())
            connection.connection_made(wire)
            if left:
                there.close()
            connection.data_received(HEAD + b"\r\n" + BODY)
            connection.connection_lost(None)
        app.close()
        return wire

    wire = asyncio.run(arrive())
    assert (wire.aborted, b" 503 " in wire.written) == (aborted, not aborted)
