"""A trickle of requests while the fleet learns: does it keep serving, and how fast?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.kit.measure import percentile
from bus import BusError
from services.errors import ServiceError
from services.runtime.client import FleetClient

__all__ = ["Trickle"]


@dataclass
class Trickle:
    """One text at a time, `pause` seconds apart, routed as the fleet likes."""

    client: FleetClient
    texts: Sequence[str]
    pause: float = 0.25
    seconds: list[float] = field(default_factory=list)
    """How long each answered request took."""
    failures: list[str] = field(default_factory=list)
    """What went wrong with the others."""

    @property
    def p50_ms(self) -> float:
        """Median time to the answer, milliseconds."""
        return 1000 * percentile(self.seconds, 0.5)

    @property
    def p99_ms(self) -> float:
        """The time within which 99 of 100 were answered, milliseconds."""
        return 1000 * percentile(self.seconds, 0.99)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Trickle]:
        """Ask in the background until the block ends."""
        task = asyncio.create_task(self._ask())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _ask(self) -> None:
        for text in itertools.cycle(self.texts):
            start = time.monotonic()
            try:
                await self.client.encode([text])
            except (BusError, ServiceError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.seconds.append(time.monotonic() - start)
            await asyncio.sleep(self.pause)
