"""The servers' time, by which leases run out whatever the clock of a host says."""

from __future__ import annotations

import asyncio
import time

from bus.nats.names import Names
from bus.nats.server import Server

__all__ = ["Clock"]

EVERY = 300.0
"""Seconds after which the difference is measured again."""


class Clock:
    """Seconds since the epoch as the leader of the groups' stream has them.

    A message is stored and read back with the time that the server gave it: the difference from
    the middle of that exchange is wrong by half its length at most.
    """

    def __init__(self, server: Server, names: Names) -> None:
        self.offset = 0.0
        """Seconds that the servers' clock is ahead of this host's."""
        self._server = server
        self._stream = names.groups
        self._subject = names.group("@clock")
        self._measured: float | None = None

    def __call__(self) -> float:
        return time.time() + self.offset

    def forget(self) -> None:
        """Another server may be asked from now on."""
        self._measured = None

    async def measure(self, end: float) -> None:
        """Compare the clocks, if that was long ago."""
        loop = asyncio.get_running_loop()
        if self._measured is not None and loop.time() - self._measured < EVERY:
            return
        before = time.time()
        sequence = await self._server.store(self._subject, b"", end)
        after = time.time()
        stored = await self._server.get(self._stream, end, seq=sequence)
        if stored is not None and stored.time is not None:  # else another's took its place
            self.offset = stored.time.timestamp() - (before + after) / 2
            self._measured = loop.time()
