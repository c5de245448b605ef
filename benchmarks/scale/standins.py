"""Encoders that compute nothing, all in one process: the bus and the router are real.

`python -m benchmarks.scale.standins URL COUNT` answers what is assigned to `encoder-1` to
`encoder-COUNT` with vectors that it has ready. With a COUNT of 0 it hears every request, as a
further router would, and does nothing with it. Each line of standard input `{"beats": N}` has it
say N heartbeats at once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from typing import Final

import msgspec
import numpy as np

from benchmarks.kit.children import answer
from bus import Bus, connect
from schemas import EncodeAssigned, EncodeRequested, Event, FleetHeartbeat
from services.encoder.answers import completed
from services.encoder.batcher import Job

__all__ = ["DIM", "Order"]

DIM: Final = 384
EVERY: Final = 2.0
"""Seconds between two heartbeats, as services have it."""
AT_ONCE: Final = 50
"""Heartbeats between two looks at what else there is to do."""


class Order(msgspec.Struct, frozen=True):
    """What it is told."""

    beats: int


def _beat(number: int) -> Event[FleetHeartbeat]:
    data = FleetHeartbeat(
        service="encoder",
        instance=str(number),
        pid=os.getpid(),
        state="ready",
        queue=0,
        rss_bytes=0,
        counters={"pace": 1e6, "batches": 0, "texts": 0, "tokens": 0, "cards": 0, "dim": DIM},
    )
    return Event(data=data, source=f"/encoder/{number}")


async def _encoder(bus: Bus, number: int) -> None:
    vector = np.full(DIM, DIM**-0.5, np.float32)
    source, address = f"/encoder/{number}", f"encoder-{number}"
    async with bus.watch(EncodeAssigned, to=address) as events:
        async for event in events:
            texts = event.data.texts
            job = Job(event, ((),) * len(texts), (1,) * len(texts), time.monotonic())
            for row in range(len(texts)):
                job.put(row, vector, 16)
            made = completed(job, source=source, worker=address, model="stand-in", dim=DIM)
            await bus.publish(*made)


async def _hear(bus: Bus) -> None:
    async with bus.watch(EncodeRequested) as events:
        async for _ in events:
            pass


async def _pulse(bus: Bus, count: int) -> None:
    for number in itertools.cycle(range(1, count + 1)):
        await bus.publish(_beat(number))
        await asyncio.sleep(EVERY / count)


async def _obey(bus: Bus, count: int) -> None:
    for number in range(1, count + 1):
        await bus.publish(_beat(number))
    answer({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        for number in range(msgspec.json.decode(line, type=Order).beats):
            await bus.publish(_beat(1 + number % max(count, 1)))
            if not number % AT_ONCE:
                await asyncio.sleep(0.005)  # none is to be dropped on its way
        answer({})


async def _run(url: str, count: int) -> None:
    async with await connect(url, source="/standin/1") as bus, asyncio.TaskGroup() as group:
        work = [_encoder(bus, number) for number in range(1, count + 1)] if count else [_hear(bus)]
        tasks = [group.create_task(one) for one in work]
        tasks += [group.create_task(_pulse(bus, count))] if count else []
        await asyncio.sleep(0.5)  # until what is watched is subscribed to
        await _obey(bus, count)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2])))
