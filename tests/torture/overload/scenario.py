"""The run: what can be sustained, ten times that, and how soon all is as before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final

from tests.torture.overload.crowd import Asked, Crowd, Mix, Shape
from tests.torture.overload.listeners import lazy
from tests.torture.overload.memory import Memory

__all__ = ["GREEDY", "Found", "Size", "overload"]

QUERY: Final = Shape("query")
BULK: Final = Shape("64 texts", texts=64)
HUGE: Final = Shape("10,000 texts", texts=10_000)
LONG: Final = Shape("a text of 1 MB", bytes=1_000_000)

GREEDY: Final = 0
"""The client that asks a hundred times as much as any other."""

PATIENCE: Final = (2_000, 10_000, 30_000)
"""Deadlines of the flood's requests, in milliseconds."""

WINDOW: Final = 15
"""Probes whose median says how long a request takes now."""

LOOP: Final = 64
"""Clients that ask one after another while it is measured what can be sustained."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    clients: int = 1000
    calibration: float = 10.0
    """Seconds, of which the first fifth is not counted."""
    probes: int = 100
    """Single requests before the flood."""
    times: float = 10.0
    """Of what can be sustained."""
    seconds: float = 60.0
    after: float = 10.0
    """Seconds for which is probed after the flood."""
    odd: float = 4.0
    """Requests of each odd shape a second: of 10,000 texts, and of one text of 1 MB."""
    slow: int = 3
    deaf: int = 3


@dataclass(frozen=True)
class Found:
    """What was measured."""

    sustained: float
    """Requests a second, of one short text each."""
    before: float
    """Seconds that a lone request took at the median, before."""
    asked: list[Asked]
    """The flood."""
    probes: list[Asked]
    """One after another from the moment that the flood ended."""
    ended: float
    """When that was; seconds, monotonic."""
    offered: float
    """Requests a second of the flood, as they were sent."""
    lag: float
    dropped: int
    unanswered: int

    @property
    def after(self) -> float:
        """Seconds that a lone request took at the median, 5 s after the flood and later."""
        late = [probe.seconds for probe in self.probes if probe.at >= self.ended + 5.0]
        return median(late) if late else float("inf")

    def normal_after(self, factor: float) -> float | None:
        """Seconds after the flood from which on the median of some probes was no more than
        `factor` times what it was before."""
        for place in range(len(self.probes) - WINDOW + 1):
            window = self.probes[place : place + WINDOW]
            if median(probe.seconds for probe in window) <= factor * self.before:
                return max(window[0].at - self.ended, 0.0)
        return None


async def overload(
    url: str, memory: Memory, size: Size, seed: int, say: Callable[[str], None]
) -> Found:
    """Measure, flood, watch it recover."""
    random = Random(seed)
    async with (
        Crowd(url, LOOP, name="loop") as loop,
        Crowd(url, 1, links=1, name="probe") as probe,
        Crowd(url, size.clients) as crowd,
    ):
        sustained = await _sustained(loop, size.calibration, random)
        say(f"sustained: {sustained:.0f} requests of one text a second")
        first = [await probe.once(0, QUERY, random) for _ in range(size.probes)]
        before = median(asked.seconds for asked in first)
        say(f"a lone request takes {before * 1e3:.1f} ms")
        memory.mark()
        rate = size.times * sustained
        odd = size.odd / rate
        mixes = [
            Mix(QUERY, 1 - 2 * odd - 0.002),
            Mix(BULK, 0.002),
            Mix(HUGE, odd),
            Mix(LONG, odd),
        ]
        weights = [100.0 if client == GREEDY else 1.0 for client in range(size.clients)]
        told = 0.0

        def tell(second: float) -> None:
            nonlocal told
            if second - told >= 10.0:
                told = second
                over = [asked for asked in crowd.asked if asked.done]
                done = sum(asked.code == "completed" for asked in over)
                largest = max(memory.now.items(), key=lambda it: it[1])
                say(
                    f"{second:3.0f} s: {len(crowd.asked):,} asked, {done:,} answered, "
                    f"{len(over) - done:,} refused, {crowd.open:,} open; "
                    f"largest: {largest[0]}, {largest[1] >> 20} MiB"
                )

        with lazy(url, slow=size.slow, deaf=size.deaf):
            start = time.monotonic()
            await crowd.flood(
                lambda _: rate,
                size.seconds,
                weights,
                mixes,
                random,
                deadline_ms=PATIENCE,
                tell=tell,
            )
            ended = time.monotonic()
        offered = len(crowd.asked) / (ended - start)
        probes = []
        while time.monotonic() < ended + size.after or len(probes) < 2 * WINDOW:
            probes.append(await probe.once(0, QUERY, random))
        await crowd.settled(max(PATIENCE) / 1000 + 5)
        return Found(
            sustained=sustained,
            before=before,
            asked=crowd.asked,
            probes=probes,
            ended=ended,
            offered=offered,
            lag=crowd.lag,
            dropped=crowd.dropped,
            unanswered=sum(not asked.code for asked in crowd.asked),
        )


async def _sustained(crowd: Crowd, seconds: float, random: Random) -> float:
    """Requests a second that 64 clients get answered who each wait for one before the next."""
    end = time.monotonic() + seconds

    async def one(client: int) -> None:
        while time.monotonic() < end:
            await crowd.once(client, QUERY, random)

    await asyncio.gather(*(one(client) for client in range(LOOP)))
    since = end - 0.8 * seconds
    return sum(since <= (asked.done or 0.0) < end for asked in crowd.asked) / (0.8 * seconds)
