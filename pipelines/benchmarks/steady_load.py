"""Requests at a steady rate from a process of its own, each counted: how many, how long, what failed, who answered."""

import http.client
import json
import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pipelines.errors import StoreError

_THREADS = 6
_TIMEOUT_S = 10
_KEPT_FAILURES = 10
_START_S = 60


@dataclass
class Tally:
    """What became of the requests."""

    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    """The first ones."""
    failed: int = 0
    degraded: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    """Answers by `model_version`."""

    @property
    def requests(self) -> int:
        """Answered or not."""
        return len(self.latencies_ms)

    def percentile(self, share: float) -> float:
        """Return a percentile of the latencies, ms."""
        return float(np.percentile(self.latencies_ms, share)) if self.latencies_ms else 0.0

    def add(self, other: "Tally") -> None:
        """Take in what another thread counted."""
        self.failures = (self.failures + other.failures)[:_KEPT_FAILURES]
        self.failed += other.failed
        self.degraded += other.degraded
        self.latencies_ms += other.latencies_ms
        self.versions += other.versions


@dataclass(frozen=True)
class Load:
    """What is asked, and how often."""

    port: int
    rate: float
    """Requests a second."""
    users: Sequence[str]
    item_ids: Sequence[str]
    queries: Sequence[str]
    seed: int = 13


@contextmanager
def steady_load(load: Load) -> Iterator["RunningLoad"]:
    """Send requests while the block runs."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=_send_until_told, args=(load, sender), daemon=True)
    process.start()
    sender.close()
    running = RunningLoad(process, receiver)
    try:
        if not receiver.poll(_START_S):
            raise StoreError("The process that sends requests did not start.")
        receiver.recv()
        yield running
    finally:
        process.kill()
        process.join()


class RunningLoad:
    """The process that sends."""

    def __init__(self, process: Any, connection: Any) -> None:
        self._process = process
        self._connection = connection

    def stop(self) -> Tally:
        """End it and return what it counted.

        Raises:
            StoreError: it ended by itself.
        """
        try:
            self._connection.send("stop")
            tally: Tally = self._connection.recv()
        except (EOFError, OSError):
            raise StoreError("The process that sends requests ended by itself: see above why.") from None
        self._process.join()
        return tally


def _send_until_told(load: Load, connection: Connection) -> None:
    over = threading.Event()
    tallies = [Tally() for _ in range(_THREADS)]
    began = time.monotonic()
    threads = [
        threading.Thread(target=_send_on, args=(load, number, began, over, tallies[number]), daemon=True)
        for number in range(_THREADS)
    ]
    for thread in threads:
        thread.start()
    connection.send("started")
    connection.recv()
    over.set()
    for thread in threads:
        thread.join()
    whole = Tally(seconds=time.monotonic() - began)
    for tally in tallies:
        whole.add(tally)
    connection.send(whole)


def _send_on(load: Load, number: int, began: float, over: threading.Event, tally: Tally) -> None:
    """Send every `_THREADS`-th request of the load when its time has come; one that is late goes at once."""
    chooser = random.Random(load.seed + number)  # noqa: S311 - not for secrets
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=_TIMEOUT_S)
    turn = number
    while not over.wait(max(0.0, began + turn / load.rate - time.monotonic())):
        call, body = _request(load, chooser)
        sent = time.perf_counter()
        try:
            status, answer = _ask(connection, call, body)
            problem = _problem(call, status, answer)
            tally.versions[answer.get("model_version", "")] += 1
            tally.degraded += bool(answer.get("degraded"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
            connection.close()
        tally.latencies_ms.append(1e3 * (time.perf_counter() - sent))
        if problem:
            tally.failed += 1
            tally.failures.append(f"/{call}: {problem}")
        turn += _THREADS


def _request(load: Load, chooser: random.Random) -> tuple[str, dict[str, Any]]:
    user = chooser.choice(load.users)
    drawn = chooser.random()
    if drawn < 0.55:
        return "recommend", {"user_id": user}
    if drawn < 0.80:
        return "search", {"query": chooser.choice(load.queries), "user_id": user}
    if drawn < 0.95:
        return "similar", {"item_id": chooser.choice(load.item_ids)}
    event = {"user_id": user, "event_type": "view", "item_id": chooser.choice(load.item_ids)}
    return "events", {"events": [event]}


def _ask(connection: http.client.HTTPConnection, call: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection.request("POST", f"/{call}", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def _problem(call: str, status: int, answer: dict[str, Any]) -> str:
    if status // 100 != 2:
        return f"status {status}: {answer}"[:300]
    if call != "events" and not answer["items"]:
        return "no items"
    return "" if answer.get("model_version") else "no model_version"
