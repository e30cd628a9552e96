"""The load generator against servers whose answers and delays are known."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from pipelines.benchmarks.http_load import (
    Answer,
    Counting,
    closed_loop,
    endless_poisson_times,
    http_request,
    open_loop,
    poisson_times,
)
from pipelines.benchmarks.trivial_server import generator_alone

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REQUEST = http_request("search", {"query": "milk"})


@contextmanager
def server(answer: Callable[[int], list[bytes]]) -> Iterator[int]:
    """Answer the n-th request of all with these pieces; an empty list closes the connection."""
    numbers, lock = itertools.count(), threading.Lock()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(1 << 16):
                with lock:
                    number = next(numbers)
                pieces = answer(number)
                if not pieces:
                    return
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.001)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def ask(port: int, count: int, clients: int = 1) -> list[Answer]:
    found: list[Answer] = []
    closed_loop(port, lambda index: REQUEST if index < count else None, found.append, clients=clients, timeout_s=0.5)
    return found


def test_a_request_is_whole():
    assert http_request("events", {"a": 1}, method="PUT", headers={"X-API-Key": "k"}) == (
        b"PUT /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-API-Key: k\r\n"
        b'Content-Length: 7\r\n\r\n{"a":1}'
    )


def test_every_request_is_answered_once():
    with server(lambda _: [OK]) as port:
        found = ask(port, 20, clients=3)
    assert sorted(answer.index for answer in found) == list(range(20))
    assert {(answer.status, answer.body) for answer in found} == {(200, b"{}")}


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([OK[:20], OK[20:40], OK[40:]], id="in pieces"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"2\r\n{}\r\n", b"0\r\n\r\n"], id="chunked"
        ),
    ],
)
def test_an_answer_may_come_in_pieces(pieces):
    with server(lambda _: pieces) as port:
        assert [answer.status for answer in ask(port, 3)] == [200] * 3


def test_what_was_not_answered_is_told():
    with server(lambda number: [OK] if number == 1 else []) as port:
        first, second = ask(port, 2)
    assert (first.status, second.status) == (0, 200)
    assert "closed the connection" in first.problem
    with server(lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"]) as port:
        assert ask(port, 1)[0].problem == "no answer within 0.5 s"
    assert ask(port, 1)[0].problem.startswith("ConnectionRefusedError")  # nobody listens there any more


def test_a_stalled_server_cannot_hide_the_requests_that_were_due_meanwhile():
    def answer(number: int) -> list[bytes]:
        if number == 0:
            time.sleep(0.2)
        return [OK]

    counting = Counting()
    times = np.arange(20) * 0.01
    with server(answer) as port:
        took = open_loop(port, lambda _: REQUEST, counting, iter(times), connections=1)
    latencies = counting.tally(took).latencies_ms
    assert (latencies[:10] > 90).all()  # each waited for the only connection, from when it was due
    assert latencies[0] > latencies[9]


def test_with_connections_enough_a_stall_is_of_one_request_alone():
    def answer(number: int) -> list[bytes]:
        if number == 0:
            time.sleep(0.2)
        return [OK]

    counting = Counting(keep_every=5)
    with server(answer) as port:
        took = open_loop(port, lambda _: REQUEST, counting, iter(np.arange(20) * 0.01), connections=5)
    tally = counting.tally(took)
    assert np.median(tally.latencies_ms) < 50
    assert tally.latencies_ms.max() > 190
    assert sorted(answer.index for answer in counting.kept) == [0, 5, 10, 15]
    assert tally.failed == 0


def test_a_tally_counts_answers_with_2xx_alone():
    counting = Counting()
    for index, (status, done) in enumerate([(200, 1.001), (503, 1.5), (202, 1.003), (0, 2.0)]):
        counting(Answer(index, status, b"", b"busy", 1.0, 1.0005, done, "" if status else "gone"))
    tally = counting.tally(2.0)
    assert tally.latencies_ms.tolist() == pytest.approx([1.0, 3.0])
    assert tally.percentile_ms(50) == pytest.approx(2.0)
    assert (tally.failed, tally.rate) == (2, 1.0)
    assert tally.problems == ["status 503: busy", "gone"]
    assert tally.late_ms.tolist() == pytest.approx([0.5] * 4)


def test_poisson_times_are_as_many_as_asked_for_and_as_irregular():
    times = poisson_times(1_000, 20, seed=1)
    gaps = np.diff(times)
    assert abs(len(times) - 20_000) < 4 * 20_000**0.5
    assert times.max() < 20
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    assert list(itertools.islice(endless_poisson_times(1_000, 1), 3)) == pytest.approx(times[:3].tolist(), rel=0.5)


@pytest.mark.slow
def test_the_generator_alone_is_many_times_faster_than_a_service():
    tally = generator_alone(0.5, 8, None)
    assert tally.failed == 0
    assert tally.rate > 2_000
