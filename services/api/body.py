"""Reading a JSON body: of the right type, within its limits of size and time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from starlette.requests import ClientDisconnect, Request

from services.api.errors import BodyTooLarge, TooSlow, WrongMediaType
from services.api.operation import JSON

__all__ = ["read_body"]

READ_SECONDS: Final = 30.0
"""How long a body may take to come."""

SPILL: Final = 8
"""A body up to so many times too large is read to its end and forgotten: who still sends hears no
answer."""

SPILL_SECONDS: Final = 5.0


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, at most `most` bytes.

    Raises `WrongMediaType`, `BodyTooLarge`, `TooSlow`.
    """
    _check_type(request)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        if int(length) <= most * SPILL and not _waits(request):
            await _spill(request)
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    stream = request.stream()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in stream:
                size += len(part)
                if size > most:
                    break
                parts.append(part)
    except TimeoutError as error:
        raise TooSlow(f"the body did not come within {READ_SECONDS:g} s") from error
    except ClientDisconnect as error:
        raise TooSlow("the body broke off") from error
    if size > most:
        await _spill(request)
        raise _too_large(most)
    return b"".join(parts)


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        told = f"not as {kind!r}" if kind else "and nothing says what it is"
        raise WrongMediaType(f"the body must be JSON, sent as Content-Type: {JSON}, {told}")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise WrongMediaType(f"the body must not be compressed, but is {coding!r}")


def _waits(request: Request) -> bool:
    """Whether the sender waits for leave before it sends the body."""
    return request.headers.get("expect", "").lower() == "100-continue"


async def _spill(request: Request) -> None:
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(SPILL_SECONDS):
            while (part := await request.receive())["type"] == "http.request":
                if not part.get("more_body", False):
                    return


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {most} bytes: split the request")
