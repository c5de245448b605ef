"""Which services of the fleet were heard lately: whether it is ready, and whether it is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from schemas import FleetHeartbeat

__all__ = ["NEEDED", "SILENCE", "Presence"]

NEEDED: Final = ("broker", "router", "encoder")
"""The services without which nothing is encoded."""

SILENCE: Final = 6.0
"""Seconds without a heartbeat after which a process is taken for gone."""


class Presence:
    """The last word of every process of the services that are needed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._heard: dict[str, dict[str, tuple[float, str]]] = {name: {} for name in NEEDED}

    def hear(self, beat: FleetHeartbeat) -> None:
        """Take note of a heartbeat."""
        known = self._heard.get(beat.service)
        if known is None:
            return
        if beat.state == "stopped":
            known.pop(beat.instance, None)
        else:
            known[beat.instance] = self._clock(), beat.state

    def unready(self) -> tuple[str, ...]:
        """The services of which no process said lately that it is ready."""
        return tuple(
            name
            for name, known in self._heard.items()
            if not any(self._lately(at) and state == "ready" for at, state in known.values())
        )

    def gone(self) -> tuple[str, ...]:
        """The services of which nothing at all was heard lately.

        One that restarts is not gone: who asks meanwhile waits a little instead of being refused.
        """
        if self._lately(self._since):
            return ()
        return tuple(
            name
            for name, known in self._heard.items()
            if not any(self._lately(at) for at, _ in known.values())
        )

    def _lately(self, moment: float) -> bool:
        return self._clock() - moment < SILENCE
