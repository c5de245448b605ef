"""Around the whole application: an id for each request, headers for browsers, and the counting."""

from __future__ import annotations

import time
from typing import Final
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.context import Answered, ApiContext
from services.api.guard import OPERATION
from services.runtime.logs import correlated

__all__ = ["Front"]

GONE: Final = 499
"""The status, never sent, of a request whose caller went away."""

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = GONE
        identifier = uuid4().hex
        start = time.perf_counter()

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
            with correlated(identifier):
                await self._app(scope, receive, headed)
        finally:
            answered = Answered(
                operation=scope.get(OPERATION),
                status=status,
                seconds=time.perf_counter() - start,
                model=scope.get("state", {}).get("model"),
            )
            for observe in self._context.observers:
                observe(answered)
