"""The OpenAPI document, made from the operations that are served."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from services.api.errors import ApiError
from services.api.fields import describe
from services.api.operation import JSON, Operation, Query

__all__ = ["Error", "document"]

_REF: Final = "#/components/schemas/{name}"

_INTRODUCTION: Final = """\
Text embeddings that learn from use. `POST /v1/embeddings` is OpenAI's, so their clients work with
another base URL; feedback makes skills, and a skill is a model by its name.

Without any key, whoever is on this machine may do everything. With one, every request needs one:
`Authorization: Bearer csn_…`. Scopes: `read` < `feedback` < `admin`.
"""

_TAGS: Final = {
    "embeddings": "As OpenAI's.",
    "skills": "What was learned.",
    "learning": "What people and tools found.",
    "fleet": "What it is doing.",
    "health": "For whoever runs it; no key is needed.",
}


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    message: str
    """One clear sentence."""
    type: str
    """The kind of error, in OpenAI's words: `invalid_request_error`, `server_error`, ..."""
    param: str | None
    """The field at fault."""
    code: str | None
    """One word for programs: `model_not_found`, `rate_limit_exceeded`, ..."""


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error."""

    error: ErrorDetail


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document of these operations: OpenAPI 3.1, ready for JSON."""
    kinds = _kinds(operations)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    describe(components, kinds)
    refs = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.template, {})[one.method.lower()] = _operation(one, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Consonance",
            "version": _version(),
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _kinds(operations: Sequence[Operation]) -> list[Any]:
    """Every type of a body, once."""
    found: dict[Any, None] = {Error: None}
    for one in operations:
        found |= {kind: None for kind in (one.takes, one.gives) if kind is not None}
    return list(found)


def _operation(one: Operation, refs: dict[Any, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "tags": [one.tag],
        "security": [] if one.scope is None else [{}, {"key": []}],
    }
    told = one.description
    if one.scope is not None:
        told = f"{told}\n\nScope: `{one.scope}`.".strip()
    if told:
        body["description"] = told
    parameters = [*_path_parameters(one), *(_parameter(query) for query in one.query)]
    if parameters:
        body["parameters"] = parameters
    if one.takes is not None:
        body["requestBody"] = {"required": True, "content": {JSON: {"schema": refs[one.takes]}}}
    unnamed = {"type": "object" if one.media == JSON else "string"}
    schema = refs[one.gives] if one.gives is not None else unnamed
    body["responses"] = {
        str(one.status): {
            "description": (one.gives and _first(one.gives)) or "As asked.",
            "content": {one.media: {"schema": schema}},
        },
        **_failures(one, refs[Error]),
    }
    return body


def _path_parameters(one: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", one.template)
    ]


def _parameter(query: Query) -> dict[str, Any]:
    return {
        "name": query.name,
        "in": query.place,
        "required": False,
        "description": query.text,
        "schema": msgspec.json.schema(query.schema),
    }


def _failures(one: Operation, schema: Any) -> dict[str, Any]:
    """The statuses that this operation may answer with, by what it takes and needs."""
    statuses = {429: one.costly, 500: True, 503: True}
    statuses |= dict.fromkeys((401, 403), one.scope is not None)
    statuses |= dict.fromkeys((400, 408, 413, 415), one.takes is not None)
    statuses |= {400: one.takes is not None or bool(one.query)}
    statuses |= {404: "{" in one.path or one.path == "/v1/embeddings"}
    statuses |= {504: one.path == "/v1/embeddings"}
    words = {kind.status: _first(kind) for kind in reversed(ApiError.__subclasses__())}
    return {
        str(status): {"description": words[status], "content": {JSON: {"schema": schema}}}
        for status in sorted(statuses)
        if statuses[status]
    }


def _first(kind: type[Any]) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


@cache
def _version() -> str:
    try:
        return version("consonance")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"
