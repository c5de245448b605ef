"""Beats as they arrive over the bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bus import BusError, connect
from schemas import FleetHeartbeat, FleetStop
from services.fleet.beats import Beat, Listen, StopOrder

__all__ = ["beats_of"]


def beats_of(url: str) -> Listen:
    """Listen on the fleet's own bus; a bus that fails raises `ConnectionError`."""

    @asynccontextmanager
    async def listen() -> AsyncIterator[AsyncIterator[Beat | StopOrder]]:
        try:
            async with (
                await connect(url, source="/fleet/1") as bus,
                bus.watch([FleetHeartbeat, FleetStop]) as events,
            ):
                yield _translated(events)
        except BusError as error:
            raise ConnectionError(str(error)) from error

    return listen


async def _translated(events: AsyncIterator[object]) -> AsyncIterator[Beat | StopOrder]:
    async for event in events:
        said = getattr(event, "data", None)
        if isinstance(said, FleetHeartbeat):
            yield Beat(said.pid, said.state)
        elif isinstance(said, FleetStop):
            yield StopOrder(said.service)
