"""The request that is being answered: its id, and until when its answer is wanted; known to every stage of it."""

import os
import time
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    """What the stages of an answer may want to know of the request that they work for."""

    request_id: str
    deadline: float
    """On the clock of `time.monotonic`, seconds."""


_current: ContextVar[CurrentRequest | None] = ContextVar("headrace_request", default=None)


def new_request_id() -> str:
    """Return 32 random hex digits."""
    return os.urandom(16).hex()  # as a random UUID, at a quarter of its cost


def begin_request(request_id: str, deadline: float) -> None:
    """Say which request the present task or thread works for."""
    _current.set(CurrentRequest(request_id, deadline))


def request_id() -> str:
    """Return the id of the present request; a new one outside of requests."""
    current = _current.get()
    return new_request_id() if current is None else current.request_id


def known_request_id() -> str | None:
    """Return the id of the present request, None outside of requests."""
    current = _current.get()
    return None if current is None else current.request_id


def remaining_s() -> float | None:
    """Return what is left of the present request's time, seconds, never below 0; None outside of requests."""
    current = _current.get()
    return None if current is None else max(current.deadline - time.monotonic(), 0.0)
