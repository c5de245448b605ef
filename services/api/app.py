"""The application: routes made from the operations, errors in one shape, the page beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.api import (
    embeddings,
    events,
    files,
    health,
    learning,
    metrics,
    models,
    skills,
    status,
)
from services.api.answers import refusal
from services.api.context import ApiContext
from services.api.errors import ApiError, InvalidRequest, MethodNotAllowed, NotFound
from services.api.front import Front
from services.api.guard import Gate, Guarded
from services.api.older import OLDER, downgraded
from services.api.openapi import document
from services.api.operation import JSON, Operation, Query

__all__ = ["OPERATIONS", "create_app"]


async def openapi_json(request: Request) -> Response:
    """The document of everything here."""
    asked = request.query_params.getlist("version")
    if any(version != OLDER for version in asked):
        raise InvalidRequest(f"version may be {OLDER}, or not be set", param="version")
    older = bool(asked)
    return Response(_document(older), media_type=JSON)


OPERATIONS: tuple[Operation, ...] = (
    *embeddings.OPERATIONS,
    *models.OPERATIONS,
    *skills.OPERATIONS,
    *learning.OPERATIONS,
    *status.OPERATIONS,
    *events.OPERATIONS,
    *metrics.OPERATIONS,
    *health.OPERATIONS,
    Operation(
        "GET",
        "/openapi.json",
        openapi_json,
        None,
        "This document",
        "OpenAPI 3.1; with `version=3.0` for readers that know no newer one.",
        query=(Query("version", "`3.0`; not set: 3.1.", Literal["3.0"]),),
        tag="health",
        costly=False,
    ),
)
"""Everything that the API offers, in the order of its document."""


def create_app(
    context: ApiContext,
    operations: Sequence[Operation] = OPERATIONS,
    *,
    gate: Gate | None = None,
) -> Starlette:
    """The application that serves these operations; nothing of it is global."""
    gate = gate or Gate(context)
    app = Starlette(
        routes=[
            *(
                Route(one.path, Guarded(one, gate), methods=[one.method], name=one.name)
                for one in operations
            ),
            *files.routes(),
        ],
        middleware=[Middleware(Front, context=context)],
        exception_handlers={HTTPException: _unrouted},
    )
    # What it would redirect to is made of the Host header and of http, whatever a proxy speaks: a
    # key could be sent there in the clear.
    app.router.redirect_slashes = False
    app.state.context = context
    return app


@cache
def _document(older: bool) -> bytes:
    found = document(OPERATIONS)
    return msgspec.json.encode(downgraded(found) if older else found)


async def _unrouted(request: Request, error: Exception) -> Response:
    """A path or a method that leads nowhere, as Starlette found it."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    found: ApiError
    if status == 405:
        found = MethodNotAllowed(f"{request.url.path} does not take {request.method}")
    elif status == 404:
        found = NotFound(f"there is nothing at {request.url.path}")
    else:
        found = InvalidRequest(f"{request.method} {request.url.path} cannot be answered")
    response = refusal(found)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
