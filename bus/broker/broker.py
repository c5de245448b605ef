"""The broker: three sockets around the core, and the journal's file."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import zmq

import schemas
from bus import protocol
from bus.access.door import Door
from bus.access.rights import Grant
from bus.broker.core import SOURCE, Core
from bus.broker.guard import Guard, resident
from bus.broker.outstanding import CALLS
from bus.connected import Connected
from bus.errors import BusError, InUse, InvalidUrl
from bus.journal import groups
from bus.settings import BrokerSettings
from bus.sockets import EASE, Drained, is_shed
from bus.urls import Endpoints, endpoints, secure_folder

__all__ = ["Broker"]

FULL = 0.8
"""The share of the byte cap at which the heartbeat says `degraded`."""
MEMORY = 512 * 2**20
"""Bytes of this process beyond which those who do not read, or send without end, are cut off."""
INGRESS = 256
"""Messages of one publisher that wait to be read; large ones are dropped before, see `_heard`."""
REQUESTS = 64
"""Requests of one connection that wait to be read; what has been read is put off, or under way."""
UNTOLD = 4 * EASE
"""Bytes of pressure beyond which nobody is told what was dropped, and answers are dropped, too."""
SWEEP = 0.05
"""Seconds between two stretches of forgetting, while there is more to forget."""

_log = logging.getLogger(__name__)


class Broker:
    """`async with Broker(url, state) as broker:` serves until the block is left.

    Raises `InvalidUrl`, `InsecureFolder`, `InvalidKey`, `InUse`, and what the journal raises.
    """

    def __init__(self, url: str, state: Path, settings: BrokerSettings | None = None) -> None:
        self.url = url
        self.settings = settings or BrokerSettings()
        self.endpoints: Endpoints = endpoints(url)
        self.state = state
        self.core = Core(self._emit, path=state / "journal.sqlite", settings=self.settings)
        self._locks: list[IO[bytes]] = []
        self._bound: list[Path] = []
        """The files of the sockets, where they have any."""
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.door: Door | None = None
        """Over tcp: who may come in, and what they may do."""
        self._sockets: list[Drained] = []
        self._ingress: Drained | None = None
        self._egress: Drained | None = None
        self._journal: Drained | None = None
        self._connected: dict[str, Connected] = {}
        self._guard: Guard | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._size = 0
        self._backlog = 0
        self._lags: dict[str, int] = {}
        self._evicted = 0
        self._lost_replies = 0

    async def __aenter__(self) -> Broker:
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _start(self) -> None:
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise BusError(f"cannot make the state folder {self.state}: {e.strerror}") from e
        self._lock(self.state / "journal.lock", f"the state folder {self.state}")
        if self.endpoints.folder is not None:
            secure_folder(self.endpoints.folder)
            self._lock(self.endpoints.folder / "broker.lock", f"the bus {self.url}")
        self._context = zmq.Context()
        if self.endpoints.secured:
            self.door = Door(self._context, self.state / "keys", self.core.withdraw)
        await self.core.start()
        # Egress first: nothing may come in that could not go out.
        self._egress = self._bind(zmq.XPUB, "egress", self._subscribed)
        self._journal = self._bind(zmq.ROUTER, "journal", self._asked)
        self._ingress = self._bind(zmq.SUB, "ingress", self._heard)
        bound = {"egress": self._egress, "journal": self._journal, "ingress": self._ingress}
        self._guard = Guard(
            {place: (drained, self._connected[place]) for place, drained in bound.items()},
            2 * self.settings.max_message_bytes,
            lambda: resident() > MEMORY,
        )
        self._maintain()
        self._beat()

    def _lock(self, path: Path, what: str) -> None:
        try:
            file = path.open("ab")
        except OSError as e:
            raise BusError(f"cannot use {what}: {e.strerror}") from e
        self._locks.append(file)
        try:
            fcntl.flock(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # goes with the process, however it ends
        except OSError as e:
            raise InUse(f"another broker is running on {what}") from e

    def _bind(self, kind: int, place: str, handle: Callable[..., None]) -> Drained:
        assert self._context is not None  # noqa: S101 (made before anything is bound)
        endpoint: str = getattr(self.endpoints, place)
        socket = self._context.socket(kind)
        connected = Connected(socket, None if self.door is None else self.door.numbers)
        self._connected[place] = connected
        socket.linger = 200
        socket.setsockopt(zmq.MAXMSGSIZE, self.settings.max_message_bytes)
        alive, dead = self.endpoints.heartbeat
        socket.setsockopt(zmq.HEARTBEAT_IVL, alive)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, dead)
        if endpoint.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        if self.door is not None:
            self.door.guard(socket, place, connected)
        if kind == zmq.XPUB:
            # Every subscriber's own: two may have chosen the same word after `_echo.`.
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)
            socket.setsockopt(zmq.SNDHWM, self.settings.subscriber_queue)
        elif kind == zmq.SUB:
            # What comes faster than it is read waits where it is made: there it is told.
            socket.setsockopt(zmq.RCVHWM, INGRESS)
            socket.subscribe(b"")
        else:
            socket.setsockopt(zmq.RCVHWM, REQUESTS)
            # The answers to all that one may ask find room, however slowly they are read.
            socket.setsockopt(zmq.SNDHWM, 2 * CALLS)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as e:
            self._connected.pop(place).close()
            socket.close()
            if e.errno == zmq.EADDRINUSE:
                raise InUse(f"the port of {endpoint} is in use, perhaps by another broker") from e
            raise InvalidUrl(f"cannot serve {endpoint}: {e.strerror}") from e
        if endpoint.startswith("ipc://"):
            self._bound.append(Path(endpoint.removeprefix("ipc://")))
        attachments = kind == zmq.SUB
        drained: Drained
        if self.door is None:
            drained = Drained(socket, handle, attachments=attachments)
        elif kind == zmq.XPUB:
            drained = self.door.listeners(socket, place)
        else:
            drained = self.door.speakers(socket, place, handle, attachments=attachments)
        self._sockets.append(drained)
        return drained

    # messages

    def _heard(self, message: list[bytes], grant: Grant | None = None) -> None:
        pressure = self._ingress.pressure if self._ingress is not None else 0.0
        if pressure and is_shed(message, answers=pressure > UNTOLD):
            self.core.shed(message, grant, told=pressure <= UNTOLD)
            return
        if pressure and len(message) > 1:
            message[1] = bytes(message[1])
        self.core.ingress(message, grant)

    def _emit(self, message: Sequence[bytes]) -> None:
        if self._egress is not None:
            self._egress.send(message)  # XPUB never waits: it drops for who is too slow

    def _subscribed(self, message: list[bytes]) -> None:
        if message[0][:1] == b"\x01" and message[0][1:].startswith(protocol.ECHO):
            self._emit([message[0][1:], b""])

    def _asked(self, message: list[bytes], grant: Grant | None = None) -> None:
        asker, *rest = message
        if len(rest) != 3:
            body = protocol.Error("malformed", "a request has three frames: id, verb, JSON")
            self._reply(asker, rest[0] if rest else b"", protocol.ERROR, protocol.encode(body))
            return
        name, verb, body_ = rest
        self.core.request((asker, name), verb, body_, partial(self._reply, asker, name), grant)

    def _reply(self, asker: bytes, name: bytes, status: bytes, body: bytes) -> bool:
        sent = self._journal is not None and self._journal.send([asker, name, status, body])
        self._lost_replies += not sent
        return sent

    # heartbeat and maintenance

    def _later(self, name: str, seconds: float, call: object) -> None:
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(seconds, call)  # type: ignore[arg-type]

    def _beat(self) -> None:
        self._later("beat", self.settings.heartbeat_seconds, self._beat)
        if self._guard is not None:
            self._guard.look()
        self.core.retry()
        self.core.writer.submit(groups.lags, self._counted)
        self._emit(schemas.frames(schemas.Event(data=self._heartbeat(), source=SOURCE)))

    def _counted(self, lags: object) -> None:
        if isinstance(lags, dict):
            self._lags = lags

    def _heartbeat(self, state: str | None = None) -> schemas.FleetHeartbeat:
        full = self._backlog >= FULL * self.settings.retention_bytes
        return schemas.FleetHeartbeat(
            service="broker",
            instance="broker-1",
            pid=os.getpid(),
            state=state or ("degraded" if full or self.core.failure else "ready"),
            queue=self.core.writer.queued,
            rss_bytes=resident(),
            counters={
                **self.core.counters,
                "lost_replies": self._lost_replies,
                "subscribers": len(self._connected["egress"].open) if self._connected else 0,
                "subscribers_cut": self._guard.subscribers.cut if self._guard else 0,
                "connections_cut": self._guard.cut if self._guard else 0,
                "journal_bytes": self._size,
                "journal_bytes_limit": self.settings.retention_bytes,
                "journal_backlog_bytes": self._backlog,
                "journal_evicted": self._evicted,
                "journal_failures": self.core.failures,
                **{f"lag:{group}": count for group, count in self._lags.items()},
            },
            heads=dict(self.core.heads),
            trouble=self._trouble(full=full),
        )

    def _trouble(self, *, full: bool) -> str | None:
        if self.core.failure is not None:
            return str(self.core.failure)
        if full:
            return (
                f"groups have yet to acknowledge {self._backlog} bytes of the journal's"
                f" {self.settings.retention_bytes}: at the limit the oldest are lost to them"
            )
        return None

    def _maintain(self) -> None:
        settings = self.settings

        def run(journal: object) -> tuple[bool, int, int, int]:
            from bus.journal.journal import Journal

            assert isinstance(journal, Journal)  # noqa: S101
            more = journal.maintain()
            size = journal.retention.bytes
            backlog = journal.retention.backlog() if size >= FULL * settings.retention_bytes else 0
            return more, size, backlog, journal.retention.evicted

        self.core.writer.submit(run, self._maintained)

    def _maintained(self, result: object) -> None:
        more = False
        if isinstance(result, tuple):
            more, self._size, backlog, self._evicted = result
            limit = FULL * self.settings.retention_bytes
            if backlog >= limit > self._backlog:
                _log.warning(
                    "groups have yet to acknowledge %d bytes of the journal's %d: at the limit"
                    " the oldest are lost to them",
                    backlog,
                    self.settings.retention_bytes,
                )
            self._backlog = backlog
        if self._context is not None:
            self._later(
                "maintain", SWEEP if more else self.settings.maintenance_seconds, self._maintain
            )

    async def aclose(self) -> None:
        """Finish what was submitted, answer it, close; safe to call twice."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._guard is not None:
            self._guard.close()
        for connected in self._connected.values():
            connected.close()
        for drained in self._sockets:
            if drained not in (self._egress, self._journal):
                drained.close()
        if self._journal is not None:
            self._journal.pause()
        await self.core.aclose()
        if self._egress is not None:
            stopped = schemas.Event(data=self._heartbeat("stopped"), source=SOURCE)
            self._emit(schemas.frames(stopped))
        context, self._context = self._context, None
        for timer in self._timers.values():
            timer.cancel()
        self._guard = None
        self._connected.clear()
        for drained in self._sockets:
            drained.close()
        self._sockets.clear()
        self._ingress = self._egress = self._journal = None
        if self.door is not None:
            self.door.close()
            self.door = None
        if context is not None:
            await asyncio.to_thread(context.term)
        for path in self._bound:  # ZeroMQ leaves them; the lock is still ours
            path.unlink(missing_ok=True)
        self._bound.clear()
        for file in self._locks:
            file.close()
        self._locks.clear()
