"""Clients that no service wishes for: slow, silent, gone, far too large, and very many."""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.benchmarks.http_load import http_request

_CONNECT_S = 5.0
_SPARE_FILES = 300
_HUGE_MIB = 20
_ANNOUNCED_BYTES = 10**12


@dataclass
class Crowd:
    """Connections that are held open."""

    sockets: list[socket.socket]

    def send(self, data: bytes) -> None:
        """Send the same to every connection that is still there."""
        for one in list(self.sockets):
            try:
                one.send(data)
            except BlockingIOError:
                continue
            except OSError:
                one.close()
                self.sockets.remove(one)

    def cut_off(self) -> int:
        """Return how many connections the server has ended by now."""
        for one in list(self.sockets):
            try:
                while one.recv(1 << 16):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            one.close()
            self.sockets.remove(one)
        return self._opened - len(self.sockets)

    def __post_init__(self) -> None:
        self._opened = len(self.sockets)


@contextmanager
def crowd(port: int, count: int) -> Iterator[Crowd]:
    """Open so many connections, and close what is left of them at the end."""
    opened = Crowd([_connected(port) for _ in range(count)])
    try:
        yield opened
    finally:
        for one in opened.sockets:
            one.close()


def slow_clients(port: int, count: int, seconds: float) -> int:
    """Send requests by one byte a second, half of the clients in the head, half in the body; return who was cut off."""
    whole = http_request("search", {"query": "slow " * 40})
    head, _, body = whole.partition(b"\r\n\r\n")
    with crowd(port, count // 2) as slow_heads, crowd(port, count // 2) as slow_bodies:
        slow_bodies.send(head + b"\r\n\r\n")
        began = time.monotonic()
        for turn in range(int(seconds)):
            slow_heads.send(head[turn : turn + 1])
            slow_bodies.send(body[turn : turn + 1])
            time.sleep(max(0.0, began + turn + 1 - time.monotonic()))
        return slow_heads.cut_off() + slow_bodies.cut_off()


def half_open(port: int, count: int, seconds: float) -> int:
    """Connect and say nothing, or half a request; return how many were cut off."""
    whole = http_request("recommend", {"user_id": "nobody"})
    with crowd(port, count // 2) as silent, crowd(port, count // 2) as half:
        half.send(whole[: len(whole) // 2])
        time.sleep(seconds)
        return silent.cut_off() + half.cut_off()


def gone_clients(port: int, rate: float, seconds: float) -> None:
    """Send requests, and leave before the answers come."""
    request = http_request("recommend", {"user_id": "gone"})
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_S) as one:
            one.send(request)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closed by a reset
        time.sleep(1 / rate)


def huge_bodies(port: int, count: int) -> list[str]:
    """Send bodies that are far too large, really or by their announced length; return how each was answered."""
    answers: list[str] = []

    def send(announced: int) -> None:
        answers.append(_send_huge(port, announced))

    sizes = [_HUGE_MIB * 2**20, _ANNOUNCED_BYTES]
    threads = [threading.Thread(target=send, args=(sizes[number % 2],)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def most_idle(wanted: int, *process_ids: int) -> int:
    """Raise the limits of this process and of others to what they may be; return how many connections they allow."""
    found = wanted + _SPARE_FILES
    for process_id in (0, *process_ids):
        soft, hard = resource.prlimit(process_id, resource.RLIMIT_NOFILE)
        most = found if hard == resource.RLIM_INFINITY else min(found, hard)
        resource.prlimit(process_id, resource.RLIMIT_NOFILE, (max(soft, most), hard))
        found = min(found, max(soft, most))
    return max(0, found - _SPARE_FILES)


def _connected(port: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_S)
    one.setblocking(False)
    return one


def _send_huge(port: int, announced: int) -> str:
    head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {announced}\r\n\r\n".encode()
    piece = b'{"query": "' + b"x" * 2**16
    with socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_S) as one:
        with contextlib.suppress(OSError):  # a server that has seen enough closes while we still send
            one.sendall(head)
            for _ in range(_HUGE_MIB * 16):
                one.sendall(piece)
        try:
            start = one.recv(64)
        except TimeoutError:
            return "no answer"
        except OSError:
            return "closed"
    return start.split(b" ")[1].decode(errors="replace") if b" " in start else "closed"
