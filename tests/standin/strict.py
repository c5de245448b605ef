"""What the real server refuses of a request for structured output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["complaint"]

KNOWN = {"type", "properties", "required", "additionalProperties", "items", "enum", "anyOf"}


def complaint(body: Mapping[str, Any]) -> str | None:
    """Why a request to `/chat/completions` would not be taken; None: it would."""
    if not ("max_completion_tokens" in body or "max_tokens" in body):
        return "the stand-in wants every answer bounded"
    wanted = body.get("response_format") or {}
    if wanted.get("type") != "json_schema":
        return "the stand-in wants response_format json_schema"
    described = wanted["json_schema"]
    if described.get("strict") is not True or not described.get("name"):
        return "json_schema wants a name, and strict"
    return next(_wrong(described["schema"], "schema"), None)


def _wrong(schema: Mapping[str, Any], at: str) -> Iterator[str]:
    if at == "schema" and schema.get("type") != "object":
        yield "schema must be an object"
    for key in sorted(set(schema) - KNOWN):
        yield f"{at}: {key} is not permitted"
    if "type" not in schema and "anyOf" not in schema:
        yield f"{at}: must have a type"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            yield f"{at}: additionalProperties must be false"
        if set(schema.get("required", ())) != set(schema.get("properties", {})):
            yield f"{at}: required must name every property"
        for name, inner in schema.get("properties", {}).items():
            yield from _wrong(inner, f"{at}.{name}")
    if "items" in schema:
        yield from _wrong(schema["items"], f"{at}[]")
