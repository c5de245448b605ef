"""Both ends of the live lane and a bare proxy, each a process of its own.

`python -m benchmarks.bus.live_ends ROLE PLACE [DESCRIPTOR]`, where PLACE is the URL of a bus, or of
bare ends the folder of its sockets. The subscriber grants credit to the
publisher, a byte for `STEP` events, over a socket beside the bus: nobody outruns anybody, nothing
is dropped, and what is counted has arrived.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path

import msgspec
import zmq

import bus
import schemas
from benchmarks.bus import material
from benchmarks.kit.children import answer, orders
from schemas import EncodeRequested, Event

__all__ = ["QUEUE", "STEP", "WINDOW", "Order"]

STEP = 256
"""Events for which the subscriber grants one byte of credit."""
WINDOW = 4_096
"""Events under way, at most: below every queue between the two."""
QUEUE = 10_000
"""Messages that wait in each socket, as in our broker."""
PATIENCE = 60_000
"""Milliseconds after which a bare socket takes what it waits for as lost."""


class Order(msgspec.Struct, frozen=True):
    """What both ends are to do."""

    count: int
    """Events: a multiple of `STEP`, unless each is alone."""
    pause: float = 0.0
    """Seconds before each event, which is then alone: the next one waits until it has arrived."""

    @property
    def step(self) -> int:
        """Events for one byte of credit."""
        return 1 if self.pause else STEP

    @property
    def window(self) -> int:
        """Events under way, at most."""
        return 1 if self.pause else WINDOW


def _order(line: str) -> Order:
    return msgspec.json.decode(line, type=Order)


def endpoint(folder: Path, name: str) -> str:
    """Named as our broker names them."""
    return f"ipc://{folder}/bus/{name}.sock"


def proxy(folder: Path) -> None:
    """XSUB and XPUB with nothing in between."""
    (folder / "bus").mkdir(mode=0o700)
    context = zmq.Context()
    ingress, egress = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for plain, name in ((ingress, "ingress"), (egress, "egress")):
        plain.rcvhwm = plain.sndhwm = QUEUE
        plain.bind(endpoint(folder, name))
    answer({})
    zmq.proxy(ingress, egress)


# with our client


async def publish(url: str, credit: socket.socket) -> None:
    """Publish as services do: an event, made and awaited one by one."""
    loop = asyncio.get_running_loop()
    credit.setblocking(False)
    made = material.requests(material.texts())
    async with await bus.connect(url, source=material.SOURCE) as connection:
        answer({})
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = _order(line)
            at: list[float] = []
            granted = 0
            for number in range(order.count):
                while number - granted >= order.window:
                    granted += order.step * len(await loop.sock_recv(credit, 4096))
                if order.pause:
                    await asyncio.sleep(order.pause)
                if order.pause or not number:
                    at.append(time.monotonic())
                event = Event(data=made[number % len(made)], source=material.SOURCE)
                await connection.publish(event)
            while granted < order.count:
                granted += order.step * len(await loop.sock_recv(credit, 4096))
            answer({"at": at, "dropped": connection.statistics().dropped})


async def subscribe(url: str, credit: socket.socket) -> None:
    """Watch as services do, and count what arrived."""
    async with (
        await bus.connect(url, source="/bench/subscriber") as connection,
        connection.watch(EncodeRequested) as events,
    ):
        answer({})
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = _order(line)
            at: list[float] = []
            size = 0
            for number in range(1, order.count + 1):
                event = await events.get()
                size += len(event.data.texts[0])
                if order.pause or number == order.count:
                    at.append(time.monotonic())
                if not number % order.step:
                    credit.send(b"+")
            answer({"at": at, "size": size})


# with pyzmq alone


def publish_bare(folder: Path, credit: socket.socket) -> None:
    """Send the same frames, made beforehand."""
    plain = zmq.Context().socket(zmq.XPUB)
    plain.sndhwm, plain.rcvtimeo = QUEUE, PATIENCE
    plain.connect(endpoint(folder, "ingress"))
    plain.recv()  # a subscription: from now on somebody hears
    made = material.requests(material.texts())
    messages = [schemas.frames(Event(data=data, source=material.SOURCE)) for data in made]
    answer({})

    def obey(line: str) -> dict[str, object]:
        order = _order(line)
        at: list[float] = []
        granted = 0
        for number in range(order.count):
            while number - granted >= order.window:
                granted += order.step * len(credit.recv(4096))
            if order.pause:
                time.sleep(order.pause)
            if order.pause or not number:
                at.append(time.monotonic())
            plain.send_multipart(messages[number % len(messages)])
        while granted < order.count:
            granted += order.step * len(credit.recv(4096))
        return {"at": at, "dropped": 0}

    orders(obey)


def subscribe_bare(folder: Path, credit: socket.socket) -> None:
    """Receive frames and count them."""
    plain = zmq.Context().socket(zmq.SUB)
    plain.rcvhwm, plain.rcvtimeo = QUEUE, PATIENCE
    plain.connect(endpoint(folder, "egress"))
    plain.subscribe(EncodeRequested.type)
    around = len(schemas.encode(material.whole(EncodeRequested(texts=("",), reply_to="bench"))))
    answer({})

    def obey(line: str) -> dict[str, object]:
        order = _order(line)
        at: list[float] = []
        size = 0
        for number in range(1, order.count + 1):
            _, raw = plain.recv_multipart()
            size += len(raw) - around
            if order.pause or number == order.count:
                at.append(time.monotonic())
            if not number % order.step:
                credit.send(b"+")
        return {"at": at, "size": size}

    orders(obey)


def main(role: str, place: str, descriptor: int) -> None:
    """One of the roles."""
    if role == "proxy":
        proxy(Path(place))
        return
    with socket.socket(fileno=descriptor) as credit:
        match role:
            case "publish":
                asyncio.run(publish(place, credit))
            case "subscribe":
                asyncio.run(subscribe(place, credit))
            case "publish_bare":
                publish_bare(Path(place), credit)
            case _:
                subscribe_bare(Path(place), credit)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else -1)
