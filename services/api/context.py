"""What every handler of the API works with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request

from bus import Bus
from services.api.dimensions import Dimensions
from services.api.keys import KeyStore
from services.api.operation import Operation
from services.api.presence import Presence
from services.runtime.client import FleetClient
from services.runtime.fleet_view import FleetView
from services.runtime.settings import Settings

if TYPE_CHECKING:
    from services.api.metrics import ApiMetrics

__all__ = ["Answered", "ApiContext", "context_of"]


class Answered(NamedTuple):
    """A request that has been answered, for those who count."""

    operation: Operation | None
    """None where none was found for it, or it asked for a file of the page."""
    status: int
    """499 where the caller went away before there was an answer."""
    seconds: float
    """From its last header to the last byte of the answer."""
    model: str | None
    """What an embeddings request asked for and got."""


@dataclass(frozen=True)
class ApiContext:
    """Where the handlers stand; one for each application, so that nothing is global."""

    bus: Bus
    client: FleetClient
    settings: Settings
    keys: KeyStore
    view: FleetView
    metrics: ApiMetrics | None = None
    dimensions: Dimensions = field(default_factory=Dimensions)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is to end: streams end, readiness is over."""
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it can wait no longer: who has no answer by then is told to come again."""
    observers: list[Callable[[Answered], None]] = field(default_factory=list)
    """Called for every request once it is answered; they must neither fail nor wait."""

    @cached_property
    def presence(self) -> Presence:
        """Whether the services that are needed are there, as the view hears them."""
        return Presence(self.view.beats)


def context_of(request: Request) -> ApiContext:
    """The context of the application that this request came to."""
    found = request.app.state.context
    if not isinstance(found, ApiContext):
        raise TypeError("this application was not made by services.api.app.create_app")
    return found
