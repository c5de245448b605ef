"""The link over NATS: live events on plain subjects, the journal in JetStream.

There is no broker: what it checks is checked here before anything is sent, and its heartbeat,
which tells how far the journal goes, is made here from what the stream says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from nats.aio.subscription import Subscription

import schemas
from bus import protocol
from bus.broker.core import SOURCE
from bus.broker.legible import check_legible
from bus.errors import BusError, Closed, NotPermitted, Refused, TooLarge, Unreachable, refusal
from bus.link import Link
from bus.nats.clock import Clock
from bus.nats.connection import Connection
from bus.nats.frames import ORDER, pack
from bus.nats.groups import Groups
from bus.nats.journal import MAX_EVENT, Journal, durable_kinds
from bus.nats.letters import Letters
from bus.nats.live import Arrivals
from bus.nats.names import Names, Place
from bus.nats.server import Server
from bus.nats.streams import make_streams
from schemas import Event, FleetHeartbeat

__all__ = ["NatsLink"]

QUEUE = 10_000
"""Live events that wait to be sent; beyond it they are dropped, and counted."""
HEARTBEAT = 2.0
"""Seconds between two looks at how far the journal goes."""
ASK = 5.0
HEADERS = 256
"""Bytes that a message's headers may need."""
LINGER = 1.0
"""Seconds that closing waits for what is to be sent."""
_log = logging.getLogger(__name__)


class NatsLink(Link):
    """Made inside the loop that uses it; reconnects by itself."""

    def __init__(self, place: Place, *, name: str) -> None:
        self.url = place.shown
        names = Names(place.fleet)
        self._names = names
        self._connection = Connection(place, name=name)
        self._connection.on_reconnect = self._regained
        self._connection.on_loss = self._lost
        self.server = Server(self._connection)
        letters, clock = Letters(self.server, names), Clock(self.server, names)
        self._groups = Groups(self._connection, self.server, names, letters, clock)
        self._journal = Journal(self.server, names, self._groups, letters)
        self._arrivals = Arrivals(names, lambda message: self.on_message(message))
        self._durable = frozenset(durable_kinds())
        self._nonce = secrets.token_hex(8)
        self._sent = 0
        self._work: deque[Callable[[], Awaitable[None]]] = deque()
        """What is to be sent, in order."""
        self._more = asyncio.Event()
        self._subscriptions: dict[str, Subscription] = {}
        self._topics: set[str] = set()
        self._limits: set[asyncio.Timeout] = set()
        """Of the calls under way: closing ends them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self, patience: float) -> None:
        """Return once connected, with the fleet's streams there.

        Raises `Unreachable`, `NotPermitted`, `InvalidKey`, `Refused`.
        """
        end = asyncio.get_running_loop().time() + patience
        await self._connection.open(patience)
        await make_streams(self.server, self._names, end)
        if self._connection.max_payload < MAX_EVENT + HEADERS:
            _log.warning(
                "the NATS server at %s takes messages of %d bytes, events may have %d: raise its"
                " max_payload to 8MB, so that large answers pass, too",
                self.url,
                self._connection.max_payload,
                MAX_EVENT,
            )
        self._start(self._send_all())
        self._start(self._beat())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def live(self) -> bool:  # type: ignore[override]  # read only here
        """Whether a server hears what is sent now."""
        return self._connection.live

    @property
    def reconnects(self) -> int:  # type: ignore[override]
        """Connections that were lost and made again."""
        return self._connection.reconnects

    @property
    def version(self) -> str:
        """Of the server."""
        return self._connection.version

    # sending

    def send(self, message: Sequence[bytes]) -> bool:
        if self._closed:
            raise Closed("the bus is closed")
        if not self._connection.live or len(self._work) >= QUEUE:
            return False
        try:
            if len(message) > 1 and len(message[1]) > MAX_EVENT:
                size = len(message[1])
                raise TooLarge(f"the event has {size} bytes, at most {MAX_EVENT} are taken")
            event = schemas.from_frames(message)
            check_legible(message[1])
            if event.data.lane is not schemas.Lane.LIVE:
                raise Refused(f"{event.type} is durable: it goes to the journal")
            self._check_size(message)
        except (schemas.SchemaError, BusError) as e:
            self._refuse(bytes(message[1]) if len(message) > 1 else b"", e)
        else:
            self._emit(message)
        return True

    def _check_size(self, message: Sequence[bytes]) -> None:
        size = sum(map(len, message[1:]))
        if size + HEADERS > self._connection.max_payload:
            most = self._connection.max_payload
            raise TooLarge(
                f"the event has {size} bytes with its attachments, and the NATS server takes"
                f" {most}: raise its max_payload"
            )

    def _emit(self, message: Sequence[bytes]) -> None:
        body, headers = pack(message[1:])
        self._sent += 1
        headers[ORDER] = f"{self._nonce} {self._sent}"
        subject = self._names.live(bytes(message[0]).decode())
        self._do(lambda: self._connection.publish(subject, body, headers))

    def _refuse(self, raw: bytes, error: schemas.SchemaError | BusError) -> None:
        """As a broker would: who sent it, and who waits for an answer, is told why."""
        code = error.code if isinstance(error, schemas.SchemaError | Refused) else "malformed"
        thorough = len(raw) <= MAX_EVENT
        for answer in schemas.refusals(raw, code, str(error), source=SOURCE, thorough=thorough):
            message = schemas.frames(answer)
            try:
                self._check_size(message)
            except TooLarge:  # its id is that long: nobody but the sender needs to know
                asyncio.get_running_loop().call_soon(self.on_message, message)
            else:
                self._emit(message)

    def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work.append(work)
        self._more.set()

    async def _send_all(self) -> None:
        while True:
            while self._work:
                work = self._work.popleft()
                try:
                    await work()
                except BusError as e:
                    _log.warning("what was to be sent is lost: %s", e)
            self._more.clear()
            await self._more.wait()

    # listening

    def subscribe(self, topic: str) -> None:
        if not self._closed:
            self._topics.add(topic)
            self._do(lambda: self._listen(topic))

    async def _listen(self, topic: str) -> None:
        if topic in self._subscriptions:
            return
        if topic in self._durable:
            subject, handler = self._names.told(topic), self._arrivals.told_handler(topic)
        else:
            subject, handler = self._names.live(topic), self._arrivals.handler(topic)
        self._subscriptions[topic] = await self._connection.subscribe(subject, handler)

    def unsubscribe(self, topic: str) -> None:
        if not self._closed:
            self._topics.discard(topic)
            self._do(lambda: self._leave(topic))

    async def _leave(self, topic: str) -> None:
        subscription = self._subscriptions.pop(topic, None)
        if subscription is not None:
            await self._connection.unsubscribe(subscription)
        if topic in self._durable:
            self._arrivals.forget(topic)

    async def confirm(self, patience: float) -> protocol.Unheard | None:
        if self._closed:
            raise Closed("the bus is closed")
        end = asyncio.get_running_loop().time() + patience
        await self._reached()
        await self._connection.flush(patience)
        await self._ask_heads(end)
        return self._unheard()

    async def _reached(self) -> None:
        """Return once everything so far was handed to the connection."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def reached() -> None:
            if not sent.done():
                sent.set_result(None)

        self._do(reached)
        await sent

    def _unheard(self) -> protocol.Unheard | None:
        refused = []
        for topic in self._topics:
            durable = topic in self._durable
            subject = self._names.told(topic) if durable else self._names.live(topic)
            if subject in self._connection.unheard:
                refused.append(topic)
        if not refused:
            return None
        message = "the NATS server does not let this user hear that"
        return protocol.Unheard(NotPermitted.code, message, sorted(refused)[:100])

    # how far the journal goes

    async def _ask_heads(self, end: float) -> dict[str, int]:
        """Ask of each type heard how far it goes, where that is not known."""
        found = {}
        for kind in self._arrivals.unknown:
            found[kind] = await self._journal.head(kind, end)
            self._arrivals.known(kind, found[kind])
        return found

    def _lost(self, subject: str) -> None:
        """A message was lost here: what the journal has is read from it."""
        kind = self._names.kind(subject)
        if kind in self._durable:
            self._arrivals.lost(kind)
            self._start(self._catch_up())

    def _regained(self) -> None:
        self._arrivals.lost()
        self._groups.resume()
        self._start(self._catch_up())

    async def _catch_up(self) -> None:
        """Whoever watches is told how far the journal goes, and reads what is missing."""
        while not self._closed:
            try:
                found = await self._ask_heads(asyncio.get_running_loop().time() + ASK)
                self._tell(found)
                return
            except Closed:
                return
            except BusError as e:
                _log.info("cannot see how far the journal goes, trying again: %s", e)
                await asyncio.sleep(0.2)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HEARTBEAT)
            if FleetHeartbeat.type not in self._subscriptions or not self._connection.live:
                continue
            try:
                self._tell(await self._journal.heads(loop.time() + ASK))
            except BusError as e:
                _log.info("cannot see how far the journal goes: %s", e)

    def _tell(self, heads: dict[str, int]) -> None:
        """The heartbeat that a broker would send, for this process only."""
        if self._closed or FleetHeartbeat.type not in self._subscriptions:
            return
        data = FleetHeartbeat(
            service="broker",
            instance="broker-1",
            pid=0,
            state="ready",
            queue=len(self._work),
            rss_bytes=0,
            counters={"reconnects": self._connection.reconnects},
            heads=heads,
        )
        self.on_message(schemas.frames(Event(data=data, source=SOURCE)))

    # the journal

    async def call(
        self, verb: str, body: bytes, patience: float, request: bytes | None = None
    ) -> bytes:
        if self._closed:
            raise Closed("the bus is closed")
        end = asyncio.get_running_loop().time() + patience
        limit = asyncio.timeout(patience)
        self._limits.add(limit)
        try:
            async with limit:
                found = await self._journal.answer(verb, body, request or self.new_request(), end)
        except TimeoutError as e:
            if self._closed:
                raise Closed("the bus is closed") from e
            raise Unreachable(
                f"no answer to {verb} within {patience:g} s at {self.url}: is it running?"
            ) from e
        except schemas.SchemaError as e:
            raise refusal(e.code, str(e)) from e
        except (ValueError, RecursionError) as e:  # JSON that is valid and absurd
            raise Refused(str(e)) from e
        finally:
            self._limits.discard(limit)
        return protocol.encode(found)

    async def aclose(self) -> None:
        if self._closed:
            return
        now = asyncio.get_running_loop().time()
        if self._connection.live and self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await self._reached()
        self._closed = True
        for limit in list(self._limits):
            with contextlib.suppress(RuntimeError):  # it ended just now
                limit.reschedule(now)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:  # one that waits inside the library ends with the connection
            await asyncio.wait(self._tasks, timeout=LINGER)
        await self._connection.aclose()
