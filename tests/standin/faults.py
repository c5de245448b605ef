"""What can go wrong at a server, on purpose: each fault answers in place of an honest answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = [
    "Fault",
    "content",
    "garbage",
    "hang",
    "no_unicode",
    "only",
    "refusal",
    "slow",
    "status",
    "truncated",
    "wrong_schema",
]

Honest = Callable[[], Awaitable[Response]]
Fault = Callable[[Request, Honest], Awaitable[Response]]
"""Gets the request, and how it would have been answered."""


def status(code: int, message: str = "no", *, error: str | None = None, **headers: str) -> Fault:
    """An error as the API words it; `headers` such as `retry_after="1"`."""

    async def fault(request: Request, honest: Honest) -> Response:
        body = {"error": {"message": message, "type": "error", "param": None, "code": error}}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        # In ASCII, so that the message may hold what has no place in UTF-8.
        return Response(json.dumps(body), code, named, "application/json")

    return fault


def slow(seconds: float) -> Fault:
    """The honest answer, late."""

    async def fault(request: Request, honest: Honest) -> Response:
        await asyncio.sleep(seconds)
        return await honest()

    return fault


async def hang(request: Request, honest: Honest) -> Response:
    """No answer until the client has gone."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    return Response()


def only(word: str, fault: Fault) -> Fault:
    """The fault for requests that hold `word`; others are answered honestly."""

    async def chosen(request: Request, honest: Honest) -> Response:
        if word in (await request.body()).decode():
            return await fault(request, honest)
        return await honest()

    return chosen


def content(text: str | None, *, finish: str = "stop", refused: str | None = None) -> Fault:
    """A completion that says `text`."""

    async def fault(request: Request, honest: Honest) -> Response:
        message = {"role": "assistant", "content": text, "refusal": refused}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        return JSONResponse({**body, "choices": [choice], "usage": usage})

    return fault


refusal = content(None, refused="I cannot help with that.")
truncated = content('{"items": [{"id": 0, "te', finish="length")
wrong_schema = content(msgspec.json.encode({"items": [{"id": "zero", "texts": 3}]}).decode())


async def no_unicode(request: Request, honest: Honest) -> Response:
    """Bytes that are no UTF-8, as a model cut off in mid-character may write them."""
    body = b'{"choices": [{"message": {"content": "caf\xe9"}}]}'
    return Response(body, media_type="application/json")


async def garbage(request: Request, honest: Honest) -> Response:
    """A web page with the status of success."""
    return Response("<html>Welcome to the proxy</html>", media_type="text/html")
