"""What stands before every operation: keys, foreign pages, body and concurrency limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bus import BusError, RequestTimeout, TooLarge
from schemas import SchemaError
from services.api import origins
from services.api.answers import refusal
from services.api.body import read_body
from services.api.context import ApiContext
from services.api.errors import (
    ApiError,
    BodyTooLarge,
    FleetAway,
    Forbidden,
    InternalFailure,
    InvalidRequest,
    KeysError,
    MethodNotAllowed,
    Overloaded,
    Unauthenticated,
)
from services.api.operation import Operation
from services.runtime.api_address import is_loopback

__all__ = ["OPERATION", "Gate", "Guarded"]

OPERATION: Final = "consonance.operation"
"""Where a request's scope names the operation that answers it."""

LOOK: Final = 10.0
"""Seconds after which a revoked key ends a stream."""


class Gate:
    """Who may come in, and how many at a time; one for each application."""

    def __init__(self, context: ApiContext) -> None:
        self.context = context
        self.at_work = 0
        self.unusable = ""
        """Why the file of keys could not be used, when it was told last."""
        self._loopback = is_loopback(context.settings.api.host)

    def admit(self, request: Request, operation: Operation) -> None:
        """Raise `Unauthenticated`, `Forbidden` or `KeysError` where the request may not come in."""
        if operation.scope is None:
            return
        keys = self.context.keys
        if self._loopback and not keys.list():
            # Whoever is on this machine may do everything; but a page in a browser on this machine
            # may come from anywhere.
            origins.check(request)
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("a key is needed: Authorization: Bearer csn_…")
        key = keys.find(token.strip())
        if key is None:
            raise Unauthenticated("this key is not known here, or was revoked")
        if not key.allows(operation.scope):
            raise Forbidden(
                f"the key {key.name!r} has the scope {' and '.join(key.scopes)}, "
                f"this needs {operation.scope}"
            )

    def enter(self) -> None:
        """Take a place among the requests at work; raises `Overloaded`."""
        most = self.context.settings.api.max_concurrent
        if self.at_work >= most:
            raise Overloaded(f"{most} requests are at work, which is all that is allowed")
        self.at_work += 1

    def leave(self) -> None:
        """Give it back."""
        self.at_work -= 1


class Guarded:
    """One operation as an ASGI application: everything that goes wrong in it becomes an answer."""

    def __init__(self, operation: Operation, gate: Gate) -> None:
        self.operation = operation
        self._gate = gate
        self._log = structlog.get_logger(service="api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[OPERATION] = self.operation
        request = Request(scope, receive)
        try:
            self._gate.admit(request, self.operation)
            if self.operation.lasting and request.method == "HEAD":
                raise MethodNotAllowed(f"{request.url.path} does not take HEAD: it has no end")
            if self.operation.costly and not self.operation.lasting:
                self._gate.enter()
                try:
                    response = await self._answer(request, scope, receive)
                finally:
                    self._gate.leave()
            else:
                response = await self._answer(request, scope, receive)
        except _Gone:
            return
        except Exception as error:
            response = refusal(self._translated(error, request))
        else:
            if self.operation.lasting:
                await self._while_admitted(request, response(scope, receive, send), send)
                return
        await response(scope, receive, send)

    async def _while_admitted(self, request: Request, sending: Awaitable[None], send: Send) -> None:
        """Send a stream until it ends, or its key was revoked."""
        task = asyncio.ensure_future(sending)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK))[0]:
                try:
                    self._gate.admit(request, self.operation)
                except ApiError:
                    task.cancel()
                    await asyncio.wait({task})
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
            task.result()
        finally:
            task.cancel()

    async def _answer(self, request: Request, scope: Scope, receive: Receive) -> Response:
        operation = self.operation
        if operation.takes is not None:
            body = await read_body(request, self._gate.context.settings.api.max_body_bytes)
            request = Request(scope, _again(body, receive))
        if operation.lasting:
            return await operation.handler(request)
        return await _in_time(request, operation, receive, self._gate.context.leaving)

    def _translated(self, error: Exception, request: Request) -> ApiError:
        """What the caller is told."""
        if isinstance(error, KeysError):
            if str(error) != self._gate.unusable:  # once, not for everybody who knocks
                self._gate.unusable = str(error)
                self._log.error("nobody gets in", why=str(error))
            return KeysError("the file of keys cannot be used: the log says why")
        if isinstance(error, ApiError):
            return error
        if isinstance(error, TooLarge):
            return BodyTooLarge(str(error))
        if isinstance(error, SchemaError):
            return InvalidRequest(str(error))
        if isinstance(error, RequestTimeout):
            return FleetAway(str(error))
        if isinstance(error, BusError):
            self._log.warning("not answered", path=request.url.path, why=str(error))
            return FleetAway(f"the bus does not take or answer this now: {error}")
        self._log.error("request failed", path=request.url.path, exc_info=error)
        return InternalFailure("this request failed by a fault of ours; the log tells more")


class _Gone(Exception):
    """The caller went away."""


async def _in_time(
    request: Request, operation: Operation, receive: Receive, leaving: asyncio.Event
) -> Response:
    """The handler's response; its work ends where this process has to, or, unless it is carried
    through, where the caller goes away before."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work = asyncio.ensure_future(operation.handler(request))
    left = asyncio.ensure_future(leaving.wait())
    ends: list[asyncio.Future[Any]] = [left]
    if not operation.finishes:
        ends.append(asyncio.ensure_future(until_gone()))
    try:
        await asyncio.wait({work, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if left.done():
            raise FleetAway("the API is stopped before there is an answer: ask again")
        raise _Gone
    finally:
        for task in (work, *ends):
            task.cancel()
        await asyncio.gather(work, *ends, return_exceptions=True)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for the handler to read; then what comes after it."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_part() -> Message:
        return parts.pop() if parts else await receive()

    return next_part
