"""A server that answers every request with the same bytes, at once or after so much computing.

At once, it says what the load generator itself can do. After as much computing as a request costs the service, it says
what waiting in turn makes of the slowest answers where nothing else does.
"""

import multiprocessing
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from pipelines.benchmarks.http_load import Counting, Tally, closed_loop, http_request
from pipelines.benchmarks.process_accounts import on_cores
from pipelines.errors import StoreError

_BODY_BYTES = 2_000
"""About an answer with ten items."""
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (_BODY_BYTES, b"x" * _BODY_BYTES)
_START_S = 30


def generator_alone(seconds: float, clients: int, cores: Sequence[int] | None) -> Tally:
    """Send as fast as the clients can to a server that does nothing, on the cores where the service would be."""
    request = http_request("recommend", {"user_id": "somebody"})
    with trivial_server(cores) as port:
        until = time.perf_counter() + seconds
        counting = Counting()
        took = closed_loop(port, lambda _: request if time.perf_counter() < until else None, counting, clients=clients)
    return counting.tally(took)


@contextmanager
def trivial_server(cores: Sequence[int] | None, busy_ms: float = 0.0) -> Iterator[int]:
    """Run the server in a process of its own while the block runs; give its port.

    Args:
        busy_ms: Processor time that it burns for each request, before it answers.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, busy_ms / 1e3), daemon=True)
    with on_cores(cores):
        process.start()
    try:
        if not receiver.poll(_START_S):
            raise StoreError("The trivial server did not start.")
        yield int(receiver.recv())
    finally:
        process.kill()
        process.join()


def _serve(told: Connection, busy_s: float) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    told.send(listening.getsockname()[1])
    epoll = select.epoll()
    epoll.register(listening.fileno(), select.EPOLLIN)
    connected: dict[int, socket.socket] = {}
    while True:
        for number, _ in epoll.poll():
            if number == listening.fileno():
                connection, _ = listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected[connection.fileno()] = connection
                epoll.register(connection.fileno(), select.EPOLLIN)
                continue
            with suppress(OSError):
                if connected[number].recv(1 << 16):
                    until = time.thread_time() + busy_s
                    while busy_s and time.thread_time() < until:
                        pass
                    connected[number].send(_ANSWER)
                    continue
            epoll.unregister(number)
            connected.pop(number).close()
