"""What goes out: an answer, or what went wrong in one sentence."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import orjson

from bentos.recommender.contract.requests import RequestError
from bentos.recommender.http.admission import OverloadedError
from bentos.recommender.http.callers import RateLimitedError

Headers = list[tuple[bytes, bytes]]

RETRY_AFTER_S = 1
OVERLOADED = "The server is busy: send the request again after the seconds that Retry-After gives."
_LATE = "The answer was not ready in time: send the request again after the seconds that Retry-After gives."
_BUG = "Something unexpected happened; it is in the server's log. Try again, and report it if it stays."
_logger = logging.getLogger("headrace.serving")


class LateError(Exception):
    """An answer was not ready at its deadline."""


@dataclass(slots=True)
class Reply:
    """What goes out."""

    status: int
    content: dict[str, Any] | bytes
    headers: Headers

    @property
    def degraded(self) -> bool:
        """Whether it is an answer that misses something."""
        return isinstance(self.content, dict) and bool(self.content.get("degraded"))

    def body(self) -> bytes:
        """Return the body, and add the headers that describe it."""
        raw = self.content if isinstance(self.content, bytes) else orjson.dumps(self.content)
        if self.status != 204:
            self.headers += [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
        return raw


def problem(status: int, sentence: str, *headers: tuple[bytes, bytes]) -> Reply:
    """Return an error."""
    return Reply(status, {"error": sentence}, [*headers])


def problem_of(error: Exception, call: str) -> Reply:
    """Return what goes out instead of an answer; what nobody expected is logged.

    Args:
        call: What was asked, for the log.
    """
    if isinstance(error, RateLimitedError):
        return problem(429, str(error), retry_after(math.ceil(error.retry_after_s)))
    if isinstance(error, RequestError):
        more = {401: [(b"www-authenticate", b"Bearer")], 503: [retry_after(RETRY_AFTER_S)]}.get(error.status, [])
        return problem(error.status, str(error), *more)
    if isinstance(error, OverloadedError):
        return problem(503, OVERLOADED, retry_after(RETRY_AFTER_S))
    if isinstance(error, LateError):
        return problem(503, _LATE, retry_after(RETRY_AFTER_S))
    _logger.error("Unexpected error in %s", call, exc_info=error)
    return problem(500, _BUG)


def retry_after(seconds: int) -> tuple[bytes, bytes]:
    """Return the header that says when to ask again."""
    return b"retry-after", str(seconds).encode()
