"""Requests to an ASGI application, without a socket."""

import json
from typing import Any


async def ask(
    app: Any,
    path: str,
    body: object = b"",
    *headers: tuple[bytes, bytes],
    method: str = "POST",
    host: str = "127.0.0.1",
    query: bytes = b"",
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers and body of the answer; a body that is no bytes goes as JSON."""
    sent: list[dict[str, Any]] = []
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    pieces = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": list(headers),
        "client": (host, 50_000),
    }
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]
