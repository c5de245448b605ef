"""`/healthz` and `/readyz`: for whoever watches over the process."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.api.answers import answer
from services.api.context import context_of
from services.api.operation import Operation

__all__ = ["OPERATIONS"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str = "ok"


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a request would be answered now."""

    ready: bool
    missing: tuple[str, ...]
    """The services that are needed and not ready."""


async def healthz(_request: Request) -> Response:
    """Alive: nothing else is asked."""
    return answer(Health())


async def readyz(request: Request) -> Response:
    """Ready: a broker, a router and an encoder are, and this process is not about to end."""
    context = context_of(request)
    missing = (*context.presence.unready(), *(["api"] if context.draining.is_set() else []))
    found = Readiness(ready=not missing, missing=missing)
    return answer(found, status=503 if missing else 200)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/healthz",
        healthz,
        None,
        "Is the process alive?",
        gives=Health,
        tag="health",
        costly=False,
    ),
    Operation(
        "GET",
        "/readyz",
        readyz,
        None,
        "Would a request be answered?",
        "200 where a broker, a router and an encoder are ready, 503 where one is not.",
        gives=Readiness,
        tag="health",
        costly=False,
    ),
)
