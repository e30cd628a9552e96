"""Searches, recommendations and events in random order from a process of its own, and a ledger of what became of each.

Every event has an id of its own, and some are the only event of a user of their own: afterwards both can be looked for,
in the event log and in the answers.
"""

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import orjson

from pipelines.benchmarks.http_load import Answer, described, endless_poisson_times, http_request, open_loop
from pipelines.errors import StoreError

CALLS = ("recommend", "search", "similar", "events")
_START_S = 60
_KEPT_PROBLEMS = 5


@dataclass(frozen=True)
class Mix:
    """What is asked, and how often."""

    port: int
    rate: float
    """Requests a second, all calls together."""
    users: Sequence[str]
    item_ids: Sequence[str]
    queries: Sequence[str]
    event_share: float = 0.25
    similar_share: float = 0.1
    search_share: float = 0.3
    """The rest are recommendations."""
    once_share: float = 0.0
    """Share of the events that are the only one of their user."""
    seed: int = 13
    connections: int = 500
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One request and its end; times by `time.perf_counter`, which all processes of a machine share."""

    call: str
    due_s: float
    done_s: float
    status: int
    problem: str
    """Empty where the answer is a good one."""
    degraded: str = ""
    """The first reason."""
    version: str = ""
    event_id: str = ""
    once: str = ""
    """The user whose only event it is."""
    retry_after: bool = False

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return 1e3 * (self.done_s - self.due_s)

    @property
    def is_refused(self) -> bool:
        """Whether the service said to come again later."""
        return self.status == 503 and self.retry_after


@dataclass
class Ledger:
    """All requests of a load, or of a part of its time."""

    entries: list[Entry] = field(default_factory=list)

    def between(self, began_s: float, ended_s: float) -> "Ledger":
        """Return those that were due in a span of time."""
        return Ledger([one for one in self.entries if began_s <= one.due_s < ended_s])

    def outside(self, windows: Sequence[tuple[float, float]]) -> "Ledger":
        """Return those that were never on their way inside one of the windows."""
        return Ledger(
            [one for one in self.entries if all(one.done_s < began or one.due_s > ended for began, ended in windows)]
        )

    @property
    def failures(self) -> list[Entry]:
        """Requests without a good answer."""
        return [one for one in self.entries if one.problem]

    @property
    def degraded(self) -> Counter[str]:
        """Answers that told they are not what they could be, by the first reason."""
        return Counter(one.degraded for one in self.entries if one.degraded)

    @property
    def acknowledged(self) -> set[str]:
        """Ids of the events that were answered with 202."""
        return {one.event_id for one in self.entries if one.event_id and one.status == 202}

    @property
    def once_users(self) -> list[str]:
        """Users whose only event was acknowledged."""
        return [one.once for one in self.entries if one.once and one.status == 202]

    @property
    def versions(self) -> Counter[str]:
        """Answers by the bundle that gave them."""
        return Counter(one.version for one in self.entries if one.version)

    def percentile_ms(self, share: float) -> float:
        """Return a percentile of the latencies of good answers, ms; not a number where there is none."""
        good = [one.latency_ms for one in self.entries if not one.problem]
        return float(np.percentile(good, share)) if good else float("nan")

    def described_failures(self) -> str:
        """Say what the most frequent failures are."""
        counted = Counter(f"/{one.call}: {one.problem[:120]}" for one in self.failures)
        return "; ".join(f"{times} x {problem}" for problem, times in counted.most_common(_KEPT_PROBLEMS))


@contextmanager
def mixed_load(mix: Mix, *, nice: int = 0) -> Iterator["RunningMix"]:
    """Send requests while the block runs.

    Raises:
        StoreError: the process did not start.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_until_told, args=(mix, theirs, nice), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_S):
            raise StoreError("The process that sends requests did not start.")
        ours.recv()
        yield RunningMix(process, ours)
    finally:
        process.kill()
        process.join()


class RunningMix:
    """The process that sends."""

    def __init__(self, process: Any, connection: Any) -> None:
        self._process = process
        self._connection = connection

    def stop(self) -> Ledger:
        """End it and return what it noted.

        Raises:
            StoreError: it ended by itself.
        """
        try:
            self._connection.send("stop")
            entries: list[Entry] = self._connection.recv()
        except (EOFError, OSError):
            raise StoreError("The process that sends requests ended by itself: see above why.") from None
        self._process.join()
        return Ledger(entries)


def _send_until_told(mix: Mix, connection: Connection, nice: int) -> None:
    import gc
    import os

    os.nice(nice)
    gc.disable()  # nothing here makes cycles, and a collection would look like a slow answer
    sender = Sender(mix)
    connection.send("started")
    open_loop(
        mix.port,
        lambda index: None if connection.poll() else sender.next_request(index),
        sender.answered,
        endless_poisson_times(mix.rate, mix.seed),
        connections=mix.connections,
        timeout_s=mix.timeout_s,
    )
    connection.recv()
    connection.send(sender.entries)


class Sender:
    """Makes the requests of a mix and notes what becomes of them."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._chooser = random.Random(mix.seed)  # noqa: S311 - not for secrets
        self._run = f"{mix.seed}-{time.time_ns():x}"
        self._asked: dict[int, tuple[str, str, str]] = {}
        self.entries: list[Entry] = []

    def next_request(self, index: int) -> bytes:
        """Return a request, drawn at random."""
        mix, chooser = self._mix, self._chooser
        drawn = chooser.random()
        event_id = once = ""
        if drawn < mix.event_share:
            call, event_id = "events", f"load-{self._run}-{index}"
            once = f"once-{self._run}-{index}" if chooser.random() < mix.once_share else ""
            user = once or chooser.choice(mix.users)
            event = {
                "event_id": event_id,
                "user_id": user,
                "event_type": "view",
                "item_id": chooser.choice(mix.item_ids),
            }
            body: dict[str, Any] = {"events": [event]}
        elif drawn < mix.event_share + mix.similar_share:
            call, body = "similar", {"item_id": chooser.choice(mix.item_ids)}
        elif drawn < mix.event_share + mix.similar_share + mix.search_share:
            call, body = "search", {"query": chooser.choice(mix.queries), "user_id": chooser.choice(mix.users)}
        else:
            call, body = "recommend", {"user_id": chooser.choice(mix.users)}
        self._asked[index] = (call, event_id, once)
        return http_request(call, body)

    def answered(self, answer: Answer) -> None:
        """Note an answer."""
        call, event_id, once = self._asked.pop(answer.index)
        problem, parsed = problem_of(call, answer)
        reasons = parsed.get("degraded_because") or ([""] if not parsed.get("degraded") else ["no reason given"])
        self.entries.append(
            Entry(
                call,
                answer.due_s,
                answer.done_s,
                answer.status,
                problem,
                degraded=str(reasons[0]),
                version=str(parsed.get("model_version", "")),
                event_id=event_id,
                once=once,
                retry_after=b"retry-after:" in answer.head.lower(),
            )
        )


def problem_of(call: str, answer: Answer) -> tuple[str, dict[str, Any]]:
    """Return what is wrong with an answer (empty where nothing is), and its JSON object."""
    if not answer.is_ok:
        return described(answer), {}
    try:
        parsed = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return "the answer is not JSON", {}
    if not isinstance(parsed, dict):
        return "the answer is not an object", {}
    if call != "events" and not parsed.get("items"):
        return "no items", parsed
    return ("" if parsed.get("model_version") else "no model_version"), parsed
