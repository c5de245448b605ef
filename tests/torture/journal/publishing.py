"""Publishers: by the journal's requests, and by ingress, as one that knows only ZeroMQ."""

from __future__ import annotations

import asyncio
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

import zmq

import bus
import schemas
from bus import Bus
from bus.sockets import Drained
from schemas import DomainForget, Event, FeedbackGiven
from tests.torture.journal.history import Acknowledged, Attempted, Log

if TYPE_CHECKING:
    from tests.torture.journal.roles import PublisherRole

__all__ = ["publish"]

AGAIN = 0.7
"""Seconds after which a publication by ingress without a receipt is sent again."""


async def publish(one: Bus, log: Log, role: PublisherRole, chance: Random) -> None:
    """All of its numbers, in small handfuls, several on their way at once; then return."""
    send = _Ingress(one, log).send if role.ingress else _Journal(one, log).send
    unknown = [name for name in role.unknown if chance.random() < 0.7]
    events = [_event(int(name.partition(":")[2]), role) for name in unknown]
    if events:
        await send(events)
    under_way: set[asyncio.Task[None]] = set()
    started = monotonic()
    number = role.first
    while number <= role.last:
        count = min(chance.randint(1, 8), role.last - number + 1)
        events = [_event(n, role) for n in range(number, number + count)]
        number += count
        under_way.add(asyncio.create_task(send(events)))
        early = started + (number - role.first) / role.rate - monotonic()
        if early > 0:
            await asyncio.sleep(early)
        while len(under_way) > 4:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*done)
    await asyncio.gather(*under_way)


def _event(number: int, role: PublisherRole) -> Event[Any]:
    """The same event for the same number, in whichever life."""
    kind = role.poisons.get(number, "")
    data: Any = FeedbackGiven(query=kind, relevant=("a",))
    if not kind and Random(f"{role.name} {number}").random() < 0.1:
        data = DomainForget(domain="d")
    return Event(data=data, source=f"/storm/{role.name}", id=f"{role.name}:{number}")


class _Journal:
    """All of a handful are journaled, or none."""

    def __init__(self, one: Bus, log: Log) -> None:
        self._bus = one
        self._log = log

    async def send(self, events: list[Event[Any]]) -> None:
        self._log.write(*(Attempted(event.id) for event in events))
        try:
            sequences = await self._bus.publish(*events)
        except bus.Unreachable:
            return  # may have happened
        self._log.write(
            *(Acknowledged(e.id, s or 0) for e, s in zip(events, sequences, strict=True))
        )


class _Ingress:
    """Each for itself, with two bare sockets: resent until it is broadcast with a number."""

    def __init__(self, one: Bus, log: Log) -> None:
        folder = one.url.removeprefix("ipc://")
        context = zmq.Context()
        self._log = log
        self._source = one.source
        self._receipts: dict[str, asyncio.Future[int]] = {}
        egress = context.socket(zmq.SUB)
        egress.subscribe(FeedbackGiven.type)
        egress.subscribe(DomainForget.type)
        egress.connect(f"ipc://{folder}/egress.sock")
        self._egress = Drained(egress, self._broadcast)
        self._ingress = context.socket(zmq.PUB)
        self._ingress.connect(f"ipc://{folder}/ingress.sock")

    def _broadcast(self, message: list[bytes]) -> None:
        event = schemas.header(message[1])
        waiting = self._receipts.get(event.id)
        if event.source == self._source and waiting is not None and not waiting.done():
            waiting.set_result(event.sequence or 0)

    async def send(self, events: list[Event[Any]]) -> None:
        await asyncio.gather(*map(self._send, events))

    async def _send(self, event: Event[Any]) -> None:
        receipt = self._receipts[event.id] = asyncio.get_running_loop().create_future()
        self._log.write(Attempted(event.id))
        while not receipt.done():
            self._ingress.send_multipart(schemas.frames(event))
            self._egress.look()
            await asyncio.wait([receipt], timeout=AGAIN)
        del self._receipts[event.id]
        self._log.write(Acknowledged(event.id, receipt.result()))
