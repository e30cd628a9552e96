"""The HTTP side: routes, keys, limits, and errors as JSON; a plain ASGI application inside the BentoML service."""

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bentos.recommender.answers import Answers
from bentos.recommender.requests import (
    Body,
    EventsBody,
    ExplainBody,
    RecommendBody,
    RequestError,
    SearchBody,
    SimilarBody,
    parse,
)

API_KEY_VARIABLE = "HEADRACE_API_KEY"
MAX_BODY_BYTES = 2 * 2**20
_CALLS: dict[str, tuple[type[Body], int]] = {
    "search": (SearchBody, 200),
    "recommend": (RecommendBody, 200),
    "similar": (SimilarBody, 200),
    "explain": (ExplainBody, 200),
    "events": (EventsBody, 202),
}
_logger = logging.getLogger("headrace.serving")


class JSON(Response):
    """A JSON answer, written by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of the body."""
        return orjson.dumps(content)


def build_api() -> Starlette:
    """Return the application; `app.state.answers` and `app.state.api_key` are set when the service starts."""
    return Starlette(
        routes=[
            *(Route(f"/{name}", _endpoint(name), methods=["POST"]) for name in _CALLS),
            Route("/openapi.json", _openapi, methods=["GET"]),
            # All that is left, so that BentoML's own web page, which loads a tracking script, is not shown either.
            Route("/", _overview, methods=["GET"]),
            Route("/{path:path}", _no_such_call, methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _bug},
    )


def _endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
    kind, status = _CALLS[name]

    async def answer(request: Request) -> Response:
        try:
            check_caller(request, request.app.state.api_key)
            body = parse(kind, await _read_body(request))
            if request.query_params.get("timings") == "1" and "timings" in kind.model_fields:
                body = body.model_copy(update={"timings": True})
            answers: Answers = request.app.state.answers
            return JSON(await run_in_threadpool(getattr(answers, name), body), status_code=status)
        except RequestError as error:
            return JSON({"error": str(error)}, status_code=error.status)

    return answer


def check_caller(request: Request, api_key: str | None) -> None:
    """Let a caller in: with the key where there is one, else only from this machine.

    Without a key, a web page from elsewhere must not reach the service through the visitor's browser, nor a stranger
    through a proxy on this machine: a foreign `Origin` and forwarded requests are refused.

    Raises:
        RequestError: 401 or 403.
    """
    if api_key:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not given:
            raise RequestError(
                401, "The API key is missing: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            )
        if not hmac.compare_digest(given.encode(), api_key.encode()):
            raise RequestError(401, f"The API key is wrong: send the one that {API_KEY_VARIABLE} holds on the server.")
        return
    host = request.client.host if request.client else ""
    origin = request.headers.get("origin")
    foreign = "x-forwarded-for" in request.headers or "forwarded" in request.headers
    if foreign or not _is_loopback(host) or (origin is not None and not _is_loopback(urlsplit(origin).hostname or "")):
        raise RequestError(
            403, f"This server has no API key and answers only its own machine: set {API_KEY_VARIABLE} and restart it."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _read_body(request: Request) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise RequestError(
                413, f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB: send less at once, events in parts."
            )
        pieces.append(piece)
    return b"".join(pieces)


async def _openapi(_: Request) -> Response:
    """Describe the calls as OpenAPI 3.1."""
    paths, schemas = {}, {}
    for name, (kind, status) in _CALLS.items():
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[kind.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
        problem = {"description": "One sentence in `error`: what was found, what is allowed, what to do."}
        paths[f"/{name}"] = {
            "post": {
                "summary": (getattr(Answers, name).__doc__ or "").strip(),
                "requestBody": {"required": True, "content": content},
                "responses": {str(status): {"description": "The answer."}, "4XX": problem},
            }
        }
    return JSON(
        {
            "openapi": "3.1.0",
            "info": {"title": "Headrace", "version": "1"},
            "paths": paths,
            "components": {"schemas": schemas},
        }
    )


async def _overview(_: Request) -> Response:
    """Name the calls, for those who look at the address in a browser."""
    calls = {f"POST /{name}": (getattr(Answers, name).__doc__ or "").strip() for name in _CALLS}
    return JSON({"service": "headrace", "calls": calls, "described in": "/openapi.json"})


async def _no_such_call(request: Request) -> Response:
    if request.url.path.strip("/") in _CALLS and request.method != "POST":
        sentence = f"{request.url.path} takes POST with a JSON body, not {request.method}."
        return JSON({"error": sentence}, status_code=405, headers={"Allow": "POST"})
    calls = ", ".join(f"POST /{name}" for name in _CALLS)
    return JSON(
        {"error": f"There is no {request.method} {request.url.path[:100]}: there are {calls}."}, status_code=404
    )


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSON({"error": str(getattr(error, "detail", error))}, status_code=status)


async def _bug(request: Request, error: Exception) -> Response:
    _logger.error("Unexpected error in %s", request.url.path, exc_info=error)
    return JSON(
        {"error": "Something unexpected happened; it is in the server's log. Try again, and report it if it stays."},
        status_code=500,
    )
