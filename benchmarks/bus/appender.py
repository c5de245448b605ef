"""A publisher of durable events, a process of its own: ours, or JetStream's.

`python -m benchmarks.bus.appender KIND URL NUMBER` appends until its time is up, `FLIGHT` events
under way at any moment, and tells how long each acknowledgement took.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

import bus
import schemas
from benchmarks.bus import material
from benchmarks.kit.children import answer
from schemas import Event

__all__ = ["BATCH", "FLIGHT", "STREAM", "SUBJECT", "Order"]

FLIGHT = 64
"""Publications under way in each publisher, each of one event."""
BATCH = 16
"""Events of a list, where they are handed over in lists; then `FLIGHT` are 4 lists."""
STREAM, SUBJECT = "bench", "feedback.given"
PATIENCE = 60.0

Append = Callable[[int], Awaitable[int]]
"""Appends the events from that number on; the last sequence, once it is acknowledged."""


class Order(msgspec.Struct, frozen=True):
    """When to append: seconds of the system's monotonic clock."""

    begin: float
    end: float


async def append(append_: Append, batch: int, order: Order) -> dict[str, Any]:
    """Keep `FLIGHT` events under way until the end."""
    waits: list[float] = []
    last = count = 0

    async def one() -> None:
        nonlocal last, count
        while (began := time.monotonic()) < order.end:
            number, count = count, count + batch
            last = max(last, await append_(number))
            waits.append(time.monotonic() - began)

    await asyncio.sleep(order.begin - time.monotonic())
    await asyncio.gather(*(one() for _ in range(FLIGHT // batch)))
    return {"count": count, "last": last, "done": time.monotonic(), "waits": waits}


async def ours(url: str, source: str, batch: int) -> None:
    """Through `publish`, as services do."""
    made = material.feedback(material.texts())
    async with await bus.connect(url, source=source, patience=PATIENCE) as connection:

        async def publish(number: int) -> int:
            events = [
                Event(data=made[n % len(made)], source=source)
                for n in range(number, number + batch)
            ]
            return (await connection.publish(*events))[-1] or 0

        await _obey(publish, batch)


async def theirs(url: str, source: str) -> None:
    """Through JetStream's `publish`, of the same bytes; it keeps an id once, too."""
    import nats

    made = material.feedback(material.texts())
    frames = [schemas.encode(Event(data=data, source=source)) for data in made]
    connection = await nats.connect(url)
    stream = connection.jetstream(timeout=PATIENCE)

    async def publish(number: int) -> int:
        headers = {"Nats-Msg-Id": f"{source}/{number}/{time.monotonic_ns()}"}
        raw = frames[number % len(frames)]
        return (await stream.publish(SUBJECT, raw, headers=headers)).seq

    await _obey(publish, 1)
    await connection.close()


async def _obey(publish: Append, batch: int) -> None:
    answer({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer(await append(publish, batch, msgspec.json.decode(line, type=Order)))


def main(kind: str, url: str, number: str) -> None:
    """One publisher."""
    source = f"/bench/{number}"
    if kind == "nats":
        asyncio.run(theirs(url, source))
    else:
        asyncio.run(ours(url, source, BATCH if kind == "lists" else 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
