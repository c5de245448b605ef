"""`GET /v1/status`: what the fleet is doing."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from services.api.answers import answer
from services.api.context import context_of
from services.api.operation import Operation
from services.runtime.fleet_view_status import Status

__all__ = ["OPERATIONS"]


async def get_status(request: Request) -> Response:
    """What `FleetView` has gathered so far."""
    return answer(context_of(request).view.snapshot())


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/status",
        get_status,
        "read",
        "What the fleet is doing",
        "Its processes; requests of the last minute and of the last five, by all clients; of each "
        "domain the open batch, the training under way and the gate's last verdicts; skills and "
        "who serves them; peers; how far the journal is. Gathered from the bus, so a process that "
        "hangs shows as `gone` after 6 s.",
        gives=Status,
        tag="fleet",
    ),
)
