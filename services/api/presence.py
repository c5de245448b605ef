"""Which services of the fleet were heard lately: whether it is ready, and whether it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from schemas import FleetHeartbeat

__all__ = ["NEEDED", "Presence"]

NEEDED: Final = ("broker", "router", "encoder")
"""The services without which nothing is encoded."""

PATIENCE: Final = 6.0
"""Seconds after the start within which whoever was not heard may still come."""


class Presence:
    """What the last heartbeats say of the services that are needed."""

    def __init__(
        self,
        beats: Callable[[], Iterable[FleetHeartbeat]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`beats`: the last heartbeat of every process that is alive."""
        self._beats = beats
        self._clock = clock
        self._since = clock()

    def unready(self) -> tuple[str, ...]:
        """The services of which no process is ready."""
        ready = {beat.service for beat in self._beats() if beat.state == "ready"}
        return tuple(name for name in NEEDED if name not in ready)

    def gone(self) -> tuple[str, ...]:
        """The services of which no process is alive, ready or not.

        One that restarts is not gone: who asks meanwhile waits a little instead of being refused.
        Without the broker nobody can be heard, and it alone is named.
        """
        if self._clock() - self._since < PATIENCE:
            return ()
        alive = {beat.service for beat in self._beats()}
        found = tuple(name for name in NEEDED if name not in alive)
        return found[:1] if "broker" in found else found
