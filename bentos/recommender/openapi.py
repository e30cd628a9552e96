"""What `/openapi.json` says, made from the calls and their bodies."""

from typing import Any

from bentos.recommender.answers import Answers
from bentos.recommender.calls import CALLS


def summary(name: str) -> str:
    """Return what a call does, in one line."""
    return (getattr(Answers, name).__doc__ or "").strip().splitlines()[0]


def describe() -> dict[str, Any]:
    """Describe the calls as OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for call in CALLS:
        schema = call.body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[call.body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{call.body.__name__}"}}}
        problem = {"description": "One sentence in `error`: what was found, what is allowed, what to do."}
        paths.setdefault(call.route, {})[call.method.lower()] = {
            "summary": summary(call.name),
            "requestBody": {"required": True, "content": content},
            "responses": {str(call.status): {"description": "The answer."}, "4XX": problem},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
