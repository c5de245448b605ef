"""A broker on tcp and its guests: what each of them may do is for the tests to try."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

import bus
from bus.broker import Broker
from bus.client import ClientBus
from bus.security import make_client_keys, read_pair, read_public
from bus.settings import BrokerSettings
from schemas import EncodeCompleted, Event
from tests.bus.kit import free_port, short_folder


def vectors(to: str, source: str = "/op/1") -> Event[Any]:
    """An answer to somebody."""
    data = EncodeCompleted(
        request_id="r",
        model="m",
        dim=2,
        rows=(),
        tokens=1,
        queue_ms=0.0,
        compute_ms=0.0,
        attachments=("embedding",),
    )
    return Event(data=data, source=source, to=to, attachments=(b"secret of " + to.encode(),))


def raw(kind: str, source: str, data: dict[str, Any], name: str = "x1") -> bytes:
    """An event as a tool writes it."""
    return json.dumps(
        {"specversion": "1.0", "id": name, "source": source, "type": kind, "data": data}
    ).encode()


class Guest:
    """Bare sockets with somebody's key; closed with the house."""

    def __init__(self, house: House, name: str) -> None:
        self.house = house
        pair = read_pair(house.keys / f"{name}.key_secret")
        context = house.context
        made = []
        for place, kind in enumerate((zmq.XPUB, zmq.XSUB, zmq.DEALER)):
            socket = context.socket(kind)
            socket.linger = 0
            socket.curve_publickey, socket.curve_secretkey = pair
            socket.curve_serverkey = read_public(house.keys / "broker.key")
            socket.connect(f"tcp://127.0.0.1:{house.port + place}")
            made.append(socket)
        self.ingress, self.egress, self.journal = made
        self._came: deque[list[bytes]] = deque()
        self._live = False
        self.told: dict[str, Any] | None = None
        """What the broker last said of subscriptions that it refused."""
        self.marks = 1
        """How many marks end what is heard: one of each connection that may have published."""

    def close(self) -> None:
        for socket in (self.ingress, self.egress, self.journal):
            socket.close()

    async def listen(self, *topics: str) -> None:
        """Subscribe, until the broker says that it is done."""
        echo = b"_echo.%s" % secrets.token_hex(8).encode()
        for topic in (*topics, echo.decode()):
            await self.egress.send(b"\1" + topic.encode())
        while True:
            message = await asyncio.wait_for(self.egress.recv_multipart(), 10)
            if message[0] != echo:
                self._came.append(message)
                continue
            await self.egress.send(b"\0" + echo)
            self.told = json.loads(message[1]) if message[1] else None
            return

    async def drop(self, *topics: str) -> None:
        """Subscribe no longer."""
        for topic in topics:
            await self.egress.send(b"\0" + topic.encode())
        await self.listen()

    async def heard(self, end: bytes = b"end") -> list[str]:
        """The topics of all that comes, up to the last of the marks that `House.mark` sets."""
        found, marks = [], 0
        while marks < self.marks:
            topic, *_ = await self.next()
            if topic == b"_ping." + end:
                marks += 1
            else:
                found.append(topic.decode())
        return found

    async def next(self) -> list[bytes]:
        """The next message."""
        if self._came:
            return self._came.popleft()
        return await asyncio.wait_for(self.egress.recv_multipart(), 10)

    async def say(self, *frames: bytes) -> None:
        """Publish on ingress, once the broker listens."""
        if not self._live:
            await asyncio.wait_for(self.ingress.recv(), 10)
            self._live = True
        await self.ingress.send_multipart(frames)

    async def ask(self, verb: str, **request: Any) -> tuple[str, Any]:
        """The answer of the journal: `ok`, or the error's code; and its body."""
        await self.journal.send_multipart([b"1", verb.encode(), json.dumps(request).encode()])
        _, status, answer = await asyncio.wait_for(self.journal.recv_multipart(), 10)
        body = json.loads(answer)
        return ("ok", body) if status == b"ok" else (body["code"], body["message"])


class House:
    """The broker, its keys and a guest of its own who may do everything: `op`."""

    op: Guest

    def __init__(self, state: Path, port: int, stack: AsyncExitStack) -> None:
        self.state = state
        self.keys = state / "keys"
        self.port = port
        self.url = f"tcp://127.0.0.1:{port}"
        self.broker = Broker(self.url, state, BrokerSettings(heartbeat_seconds=3600))
        self.context = zmq.asyncio.Context()
        self._stack = stack
        self._buses: list[ClientBus] = []

    def key(self, name: str, **more: Any) -> None:
        make_client_keys(self.keys, name, **more)

    def guest(self, name: str) -> Guest:
        found = Guest(self, name)
        self._stack.callback(found.close)
        return found

    async def bus(self, name: str, source: str | None = None, *, patience: float = 10) -> bus.Bus:
        found = await bus.connect(
            self.url,
            source=source or f"/{name}/1",
            patience=patience,
            key=self.keys / f"{name}.key_secret",
            server_key=self.keys / "broker.key",
        )
        self._stack.push_async_callback(found.aclose)
        assert isinstance(found, ClientBus)
        self._buses.append(found)
        return found

    async def mark(self, *listeners: Guest) -> None:
        """A last message of `op` and of every bus: what they sent before has arrived by then.

        Of each its own, since two connections have no order between them.
        """
        for listener in listeners:
            await listener.listen("_ping.end")
            listener.marks = 1 + len(self._buses)
        await self.op.say(b"_ping.end", b"")
        for each in self._buses:
            assert each.link.send((b"_ping.end", b""))

    def may(self, name: str) -> str | None:
        """The role under which a key is admitted now."""
        assert self.broker.door is not None
        grant = self.broker.door.ring.grants.get(name)
        return None if grant is None else grant.role.name


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        found = House(stack.enter_context(short_folder()), free_port(), stack)
        stack.callback(found.context.term)
        for name in ("eve", "victim"):
            found.key(name)
        found.key("op", role="admin", sources=["/"])
        await stack.enter_async_context(found.broker)
        found.op = found.guest("op")
        yield found
