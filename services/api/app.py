"""The application: routes made from the operations, errors in one shape."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.api.answers import refusal
from services.api.context import ApiContext
from services.api.errors import ApiError, InternalFailure, MethodNotAllowed, NotFound
from services.api.operation import Operation

__all__ = ["OPERATIONS", "create_app"]

OPERATIONS: tuple[Operation, ...] = ()
"""Everything that the API offers, in the order of its document."""


def create_app(context: ApiContext, operations: Sequence[Operation] = OPERATIONS) -> Starlette:
    """The application that serves these operations; nothing of it is global."""
    app = Starlette(
        routes=[
            Route(one.path, one.handler, methods=[one.method], name=one.name) for one in operations
        ],
        exception_handlers={
            ApiError: _refused,
            HTTPException: _unrouted,
            Exception: _failed,
        },
    )
    app.state.context = context
    return app


async def _refused(_request: Request, error: Exception) -> Response:
    return refusal(error if isinstance(error, ApiError) else InternalFailure("internal error"))


async def _unrouted(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        return refusal(MethodNotAllowed(f"{request.url.path} does not take {request.method}"))
    return refusal(NotFound(f"there is nothing at {request.url.path}"))


async def _failed(request: Request, error: Exception) -> Response:
    structlog.get_logger().error(
        "request failed", path=request.url.path, exc_info=error, method=request.method
    )
    return refusal(InternalFailure("this request failed by a fault of ours; the log tells more"))
