"""What `/openapi.json` says, made from the calls, their bodies and their answers."""

from typing import Any

from pydantic import BaseModel

from bentos.recommender.answering.answers import Answers
from bentos.recommender.contract.answer_schemas import Problem
from bentos.recommender.contract.calls import CALLS, Call
from bentos.recommender.contract.requests import EventsBody, ItemsBody, SearchBody
from pipelines.config import ServingConfig

_REASONS = {
    400: "The body is not JSON, or the request not HTTP.",
    401: "No key, or a wrong one.",
    403: "The key does not allow this call; or there are no keys, and the caller is on another machine.",
    404: "Something that the request is about is not there.",
    408: "The request was not complete in time.",
    409: "The server is not in a state for this.",
    413: "The body is too large.",
    414: "The path is too long.",
    415: "The body is compressed.",
    422: "A field is wrong, missing or unknown.",
    429: "The key asks more often than it may.",
    431: "The headers are too long.",
    500: "Something unexpected happened.",
    503: "There are too many requests, or the answer was not ready in time, or the disk does not take events.",
}
_EVERYWHERE = (400, 401, 403, 408, 413, 414, 415, 422, 429, 431, 500, 503)
_WITH_RETRY_AFTER = frozenset({429, 503})
_REFERENCE = "#/components/schemas/{model}"
_REQUEST_ID = {
    "X-Request-ID": {
        "description": "That of the request where it sent one of at most 128 safe characters, else a new one.",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}


def summary(name: str) -> str:
    """Return what a call does, in one line."""
    return (getattr(Answers, name).__doc__ or "").strip().splitlines()[0]


def describe(serving: ServingConfig) -> dict[str, Any]:
    """Describe the calls as OpenAPI 3.1, with the limits of the settings."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for call in CALLS:
        paths.setdefault(call.route, {})[call.method.lower()] = _operation(call, schemas)
    _add_schema(Problem, schemas)
    _tell_limits(schemas, serving)
    paths |= {
        "/": {"get": _page("Name the calls.", "application/json", {"type": "object"})},
        "/openapi.json": {"get": _page("This description.", "application/json", {"type": "object"})},
        "/livez": {"get": _page("Whether the process lives.", "text/plain", {"type": "string"})},
        "/readyz": {"get": _page("Whether it answers.", "text/plain", {"type": "string"})},
        "/metrics": {
            "get": {
                **_page(
                    "What Prometheus asks for; to this machine, or with any key.", "text/plain", {"type": "string"}
                ),
                "security": [{}, {"bearer": []}, {"header": []}],
            }
        },
    }
    paths["/metrics"]["get"]["responses"] |= {str(status): _problem(status) for status in (401, 403, 429)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace",
            "version": "1",
            "description": "Search and recommendations. Errors are one sentence: what was found, what is allowed, what "
            "to do. Keys come from `headrace keys add`; without any, the server answers its own machine alone.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _operation(call: Call, schemas: dict[str, Any]) -> dict[str, Any]:
    _add_schema(call.answer, schemas)
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": summary(call.name),
        "description": f"Needs a key with the scope `{call.scope}`.",
        "security": [{"bearer": []}, {"header": []}],
        "responses": {
            str(call.status): {
                "description": "The answer.",
                "headers": _REQUEST_ID,
                "content": _json(call.answer),
            },
            **{str(status): _problem(status) for status in sorted({*_EVERYWHERE, *call.statuses})},
        },
    }
    if (field := call.path_field) is not None:
        schema = call.body.model_json_schema()["properties"][field]
        operation["parameters"] = [{"name": field, "in": "path", "required": True, "schema": schema}]
        return operation
    _add_schema(call.body, schemas)
    needed = any(field.is_required() for field in call.body.model_fields.values())
    operation["requestBody"] = {"required": needed, "content": _json(call.body)}
    if "timings" in call.body.model_fields:
        timings = {"description": "`1` is the same as `timings` in the body.", "schema": {"type": "string"}}
        operation["parameters"] = [{"name": "timings", "in": "query", **timings}]
    return operation


def _page(summary: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    answer = {"description": "The answer.", "content": {media_type: {"schema": schema}}}
    return {"summary": summary, "security": [], "responses": {"200": answer}}


def _problem(status: int) -> dict[str, Any]:
    headers = _REQUEST_ID | (_RETRY_AFTER if status in _WITH_RETRY_AFTER else {})
    return {"description": _REASONS[status], "headers": headers, "content": _json(Problem)}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}


def _add_schema(model: type[BaseModel], schemas: dict[str, Any]) -> None:
    schema = model.model_json_schema(ref_template=_REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema


def _tell_limits(schemas: dict[str, Any], serving: ServingConfig) -> None:
    """Add what the settings allow to what the bodies do."""
    for schema in schemas.values():
        if "k" in schema.get("properties", {}):
            schema["properties"]["k"]["maximum"] = serving.max_k
    schemas[SearchBody.__name__]["properties"]["query"]["maxLength"] = serving.max_query_characters
    schemas[EventsBody.__name__]["properties"]["events"]["maxItems"] = serving.max_events
    schemas[ItemsBody.__name__]["properties"]["items"]["maxItems"] = serving.max_items
