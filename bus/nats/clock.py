"""The servers' time, by which leases run out whatever the clock of a host says."""

from __future__ import annotations

import asyncio
import time

from bus.nats.names import OWN, Names
from bus.nats.server import Server

__all__ = ["Clock"]

EVERY, SOON = 300.0, 5.0
"""Seconds after which the difference is measured again, and after an exchange that was slow."""
SLOW = 0.1
"""Seconds of an exchange that tells little."""


class Clock:
    """Seconds since the epoch as the leader of the groups' stream has them.

    A message is stored and read back with the time that the server gave it, which lies within that
    exchange: the difference is taken for what it was before, as nearly as that allows, and so no
    slow exchange moves a clock that goes right. After a slow one it is soon measured again.
    """

    def __init__(self, server: Server, names: Names) -> None:
        self.offset = 0.0
        """Seconds that the servers' clock is ahead of this host's."""
        self._server = server
        self._stream = names.groups
        self._subject = names.group(f"{OWN}clock")
        self._due: float | None = None
        """The loop's time from which it is to be measured."""

    def __call__(self) -> float:
        return time.time() + self.offset

    def forget(self) -> None:
        """Another server may be asked from now on."""
        self._due = None

    async def measure(self, end: float) -> None:
        """Compare the clocks, if that was long ago."""
        loop = asyncio.get_running_loop()
        if self._due is not None and loop.time() < self._due:
            return
        before = time.time()
        sequence = await self._server.store(self._subject, b"", end)
        after = time.time()
        stored = await self._server.get(self._stream, end, seq=sequence)
        if stored is not None and stored.time is not None:  # else another's took its place
            there = stored.time.timestamp()
            self.offset = min(max(self.offset, there - after), there - before)
            self._due = loop.time() + (EVERY if after - before < SLOW else SOON)
