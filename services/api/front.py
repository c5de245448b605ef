"""Around the whole application: an id for each request, headers for browsers, and the counting."""

from __future__ import annotations

import time
from typing import Final
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.context import Answered, ApiContext
from services.api.guard import OPERATION
from services.api.operation import Operation
from services.runtime.logs import correlated
from services.runtime.tracing import NOTHING, Span, begin, inside, parent_of, tracing

__all__ = ["Front"]

GONE: Final = 499
"""The status, never sent, of a request whose caller went away."""

_TRACED: Final = "/v1/"
"""What a span is made of: not the page, nor who asks whether this lives."""

_HEADERS: Final = {
    # The page and the browsable document are files of ours: nothing else may run, load or frame.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Front:
    """An ASGI middleware; what it adds is the same for every answer."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._context = context
        self._log = structlog.get_logger(service="api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = GONE
        identifier = uuid4().hex
        start = time.perf_counter()
        parent = parent_of(Headers(scope=scope).get("traceparent"))
        span = NOTHING
        if tracing() and scope["path"].startswith(_TRACED):
            span = begin(f"api {scope['method']}", parent, id=identifier)

        async def headed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = identifier
                headers.setdefault("Cache-Control", "no-store")
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            with correlated(identifier, parent), inside(span):
                await self._app(scope, receive, headed)
        finally:
            operation: Operation | None = scope.get(OPERATION)
            answered = Answered(
                operation=operation,
                status=status,
                seconds=time.perf_counter() - start,
                model=scope.get("state", {}).get("model"),
            )
            _end(span, answered)
            with correlated(identifier, parent):
                self._log.debug(
                    "answered",
                    operation=None if operation is None else operation.name,
                    status=status,
                    ms=round(1000 * answered.seconds, 3),
                )
            for observe in self._context.observers:
                observe(answered)


def _end(span: Span, answered: Answered) -> None:
    """Named by the route, never by the path: there are few of those."""
    if answered.operation is not None:
        span.call(f"api {answered.operation.method} {answered.operation.template}")
    span.note(status=answered.status, model=answered.model)
    if answered.status >= 500:
        span.fail(str(answered.status))
    span.end()
