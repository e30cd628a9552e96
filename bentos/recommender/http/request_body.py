"""Reading the body of a request: whole, bounded, and not more at a time than the memory takes."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from bentos.recommender.contract.requests import RequestError
from bentos.recommender.http.admission import ClientGoneError, OverloadedError
from bentos.recommender.telemetry import metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

HEADERS = frozenset({b"content-length", b"content-encoding"})
"""Headers that are looked at."""
_MAX_BYTES_IN_TRANSIT = 128 * 2**20
"""Of all bodies that are being read, together."""


class BodyReader:
    """Reads bodies; keeps count of the bytes of those that are not complete."""

    def __init__(self, max_bytes_in_transit: int = _MAX_BYTES_IN_TRANSIT) -> None:
        self._most = max_bytes_in_transit
        self._in_transit = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
        """Return the whole body.

        Args:
            limit: Bytes.

        Raises:
            RequestError: 413 or 415.
            OverloadedError: too many bytes are being read.
            ClientGoneError: there will be no more of it.
        """
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError(415, "The body is compressed, which this server does not read: send it as it is.")
        if told_length(headers) > limit:
            raise _too_large(limit)
        raw, is_whole = await _next(receive)
        if is_whole and len(raw) <= limit:
            return raw
        pieces, size = [raw], 0
        try:
            while True:
                size += len(raw)
                self._in_transit += len(raw)
                if size > limit:
                    raise _too_large(limit)
                if self._in_transit > self._most:
                    metrics.SHED.labels("bodies", "too_many_bytes").inc()
                    raise OverloadedError("too_many_bytes")
                if is_whole:
                    return b"".join(pieces)
                raw, is_whole = await _next(receive)
                pieces.append(raw)
        finally:
            self._in_transit -= size


async def _next(receive: Receive) -> tuple[bytes, bool]:
    """Return the next piece, and whether it is the last."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), not message.get("more_body", False)


def told_length(headers: Mapping[bytes, bytes]) -> int:
    """Return how many bytes the body is said to have; 0 where that is not said."""
    told = headers.get(b"content-length", b"0")
    return int(told[:20]) if told.isdigit() else 0


def _too_large(limit: int) -> RequestError:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return RequestError(413, f"The body is larger than {size}: send less at once, events in parts.")
