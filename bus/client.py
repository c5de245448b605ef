"""The bus that services hold: the contract, over any link to a broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import msgspec

import schemas
from bus import protocol
from bus.appending import Appender
from bus.consumer import Leased, Member
from bus.contract import (
    Bus,
    DeadLetter,
    Delivery,
    JournalPage,
    Kinds,
    Start,
    Statistics,
)
from bus.core import SOURCE as BROKER
from bus.errors import BusError, Closed, Refused, RequestTimeout, StaleLease, refusal
from bus.link import Link
from bus.signal import Signal
from bus.subscription import Watch
from schemas import Event, Lane, Payload

__all__ = ["ClientBus"]

MAX_RESEND = 30.0
CLOSING = 5.0
"""Seconds that closing waits for the journal's answers."""
YIELD = 64
FULL_PAUSES = (0.001, 0.004, 0.015, 0.06, 0.24)
"""Seconds between attempts to send over a queue that is full, before an event is dropped."""
_UNNUMBERED = (None,)
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Sink(Protocol):
    """Something that takes the events of a topic."""

    def push(self, event: Event[Any]) -> None: ...


class ClientBus(Bus):
    """Publishes, watches, consumes and asks through a `Link`; made by `bus.connect`."""

    def __init__(self, link: Link, *, source: str, patience: float = 30.0) -> None:
        self.link = link
        self.source = source
        self.address = schemas.address_of(source)
        self.url = link.url
        self.patience = patience
        """Seconds that a durable publication or a question waits for the broker."""
        self.dropped = 0
        self.refused = 0
        self.members: set[Member] = set()
        self._published = 0
        self._sends = 0
        self._received = 0
        self._sinks: dict[bytes, tuple[_Sink, ...]] = {}
        self._watches: set[Watch] = set()
        self._replies = _Replies()
        self._refusals = _Refusals(self)
        self._heartbeats = _Heartbeats(self._watches)
        self._closed = False
        link.on_message = self._dispatch
        link.on_stray = self._stray
        self._answerable: set[str] = set()
        """Topics of answers whose subscription is live."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._called = Signal()
        self._appender = Appender(link, patience, self.background)

    async def open(self) -> None:
        """Hear the broker's refusals; raises `Unreachable`."""
        self.add(self._refusals, [f"{schemas.EventRefused.type}@{self.source}"])
        await self.confirm()

    # topics

    def add(self, sink: _Sink, topics: Sequence[str]) -> None:
        """Send these topics to a sink; live after `confirm`."""
        self._check()
        for topic in topics:
            name = topic.encode()
            sinks = self._sinks.get(name, ())
            if not sinks:
                self.link.subscribe(topic)
            if sink not in sinks:
                self._sinks[name] = (*sinks, sink)
        if isinstance(sink, Watch):
            if not self._watches:
                self.add(self._heartbeats, [schemas.FleetHeartbeat.type])
            self._watches.add(sink)

    def remove(self, sink: _Sink, topics: Sequence[str]) -> None:
        """Undo `add`."""
        for topic in topics:
            name = topic.encode()
            sinks = self._sinks.get(name, ())
            if sink in sinks:
                self._sinks[name] = left = tuple(each for each in sinks if each is not sink)
                if not left:
                    del self._sinks[name]
                    if not self._closed:
                        self.link.unsubscribe(topic)
        if isinstance(sink, Watch):
            self._watches.discard(sink)
            if not self._watches:
                self.remove(self._heartbeats, [schemas.FleetHeartbeat.type])

    async def confirm(self) -> None:
        """Return once what was added is live."""
        await self.link.confirm(self.patience)

    def _dispatch(self, message: Sequence[bytes]) -> None:
        try:
            sinks = self._sinks.get(message[0])
            if not sinks:
                return  # another topic that begins like one of ours
            event = schemas.from_frames(message)
        except schemas.SchemaError as e:
            self.refused += 1
            _log.warning("an event that cannot be read was passed over: %s", e)
            return
        self._received += 1
        for sink in sinks:
            sink.push(event)

    # publishing

    async def publish(self, *events: Event[Any]) -> tuple[int | None, ...]:
        self._check()
        if len(events) == 1 and events[0].data.lane is Lane.LIVE:
            message = schemas.frames(events[0])
            self._sends += 1
            if self._sends % YIELD and self.link.send(message):
                self._published += 1
            else:
                await self._send(message)
            return _UNNUMBERED
        messages = [schemas.frames(event) for event in events]
        durable = [n for n, event in enumerate(events) if event.data.lane is Lane.DURABLE]
        found: list[int | None] = [None] * len(events)
        if durable:
            with self._calling():
                sequences = await self._appender.append([messages[n][1] for n in durable])
            for n, sequence in zip(durable, sequences, strict=True):
                found[n] = sequence
            self._published += len(durable)
        for event, message in zip(events, messages, strict=True):
            if event.data.lane is Lane.LIVE:
                self._sends += 1
                await self._send(message)
        return tuple(found)

    async def _send(self, message: Sequence[bytes]) -> None:
        if self._sends % YIELD == 0:
            await asyncio.sleep(0)  # who publishes in a loop must hear, too
        for pause in FULL_PAUSES:
            if self.link.send(message):
                self._published += 1
                return
            if not self.link.live:
                break
            await asyncio.sleep(pause)
        self.dropped += 1

    async def call(self, verb: str, request: protocol.Request) -> bytes:
        """Ask the journal; raises `Refused` and its kinds, `Unreachable`, `Closed`."""
        self._check()
        with self._calling():
            return await self.link.call(verb, protocol.encode(request), self.patience)

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """Closing waits for it, and a refusal counts."""
        self._calls += 1
        try:
            yield
        except Refused:
            self.refused += 1
            raise
        finally:
            self._calls -= 1
            self._called.set()

    # listening

    def watch(
        self,
        kinds: Kinds,
        *,
        to: str | None = None,
        after: int | None = None,
        buffer: int = 10_000,
    ) -> Watch:
        return Watch(self, _kinds(kinds), to or self.address, after, buffer)

    def consume(
        self,
        group: str,
        kinds: Kinds,
        *,
        max_leases: int = 1,
        visibility: float = 30.0,
        start: Start = "earliest",
    ) -> Member:
        chosen = _kinds(kinds)
        live = [kind.type for kind in chosen if kind.lane is Lane.LIVE]
        if live:
            raise ValueError(f"{', '.join(live)}: live events cannot be consumed, only watched")
        types = [kind.type for kind in chosen]
        return Member(self, group, types, max_leases, visibility, start)

    async def ack(
        self, deliveries: Sequence[Delivery], *, publish: Sequence[Event[Any]] = ()
    ) -> None:
        request = protocol.Ack(
            leases=[delivery.lease for delivery in deliveries],
            publish=[_raw(event) for event in publish],
        )
        try:
            await self.call("ack", request)
        except StaleLease:
            self._ended(deliveries)
            raise
        self._published += len(publish)
        self._ended(deliveries)

    @staticmethod
    def _ended(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if isinstance(delivery, Leased):
                delivery.finish()

    async def request(
        self,
        event: Event[Any],
        replies: Kinds,
        *,
        timeout: float,
        resend: float = 2.0,
    ) -> Event[Any]:
        reply_to = getattr(event.data, "reply_to", self.address)
        if reply_to != self.address:
            raise ValueError(f"reply_to is {reply_to!r}, this bus is addressed as {self.address!r}")
        chosen = _kinds(replies)
        topics = [f"{kind.type}@{self.address}" for kind in chosen]
        message = schemas.frames(event)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        answer = self._replies.expect(event.id, tuple(kind.type for kind in chosen))
        try:
            if not self._answerable.issuperset(topics):
                self.add(self._replies, topics)
                await self.confirm()
                self._answerable.update(topics)
            pause = resend
            while (left := end - loop.time()) > 0:
                self._check()
                self._sends += 1
                await self._send(message)
                await asyncio.wait([answer], timeout=min(left, pause))
                if answer.done():
                    return answer.result()
                pause = min(2 * pause, MAX_RESEND)
        finally:
            self._replies.forget(event.id, answer)
        raise RequestTimeout(f"nobody answered {event.type} {event.id} within {timeout:g} s")

    # the journal

    async def read(
        self, kinds: Kinds | None = None, *, after: int = 0, limit: int = 1000
    ) -> JournalPage:
        types = None if kinds is None else [kind.type for kind in _kinds(kinds)]
        truncated = False
        while True:
            page, cut = await self.read_page(types, after, limit)
            truncated = truncated or cut
            events = tuple(event for _, _, event in page if event is not None)
            if events or not page:
                return JournalPage(events, truncated)
            after = page[-1][0]  # nothing of it could be read: what follows may be

    async def read_page(
        self, types: Sequence[str] | None, after: int, limit: int
    ) -> tuple[list[tuple[int, str, Event[Any] | None]], bool]:
        """Sequence, type and event (None: unreadable here) of a stretch; and `truncated`."""
        request = protocol.Read(
            types=None if types is None else list(types), after=after, limit=limit
        )
        answer = _read(await self.call("read", request), protocol.Page)
        page: list[tuple[int, str, Event[Any] | None]] = []
        for raw in map(bytes, answer.events):
            try:
                event = schemas.decode(raw)
            except schemas.SchemaError as e:
                self.refused += 1
                _log.warning("a journaled event that cannot be read was passed over: %s", e)
                about = msgspec.json.decode(raw, type=_Numbered)
                page.append((about.sequence, about.type, None))
            else:
                page.append((event.sequence or 0, event.type, event))
        return page, answer.truncated

    async def heads(self) -> Mapping[str, int]:
        return _read(await self.call("heads", protocol.HeadsAsked()), protocol.Heads).heads

    async def dead_letters(
        self,
        action: Literal["list", "retry", "drop"] = "list",
        *,
        group: str | None = None,
        ids: Sequence[int] | None = None,
    ) -> tuple[DeadLetter, ...]:
        request = protocol.Dead(action=action, group=group, ids=None if ids is None else list(ids))
        answer = _read(await self.call("dead", request), protocol.DeadList)
        letters = []
        for entry in answer.dead:
            raw = bytes(entry.event) if entry.raw is None else entry.raw
            event: Event[Any] | None
            try:
                event = schemas.decode(raw)
            except schemas.SchemaError:
                event = None
            letters.append(DeadLetter(entry.id, entry.group, entry.reason, event, raw))
        return tuple(letters)

    async def erase(
        self, kinds: Kinds, where: Mapping[str, str], *, upto: int | None = None
    ) -> int:
        types = [kind.type for kind in _kinds(kinds)]
        answer = await self.call("erase", protocol.Erase(types=types, where=dict(where), upto=upto))
        return _read(answer, protocol.Erased).erased

    # the end

    def _stray(self, body: bytes) -> None:
        """Leases that nobody waits for any more go back at once."""
        try:
            granted = msgspec.json.decode(body, type=protocol.Deliveries).deliveries
        except msgspec.DecodeError:
            return
        if granted and not self._closed:
            self.background(self._release([item.lease for item in granted]))

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside everything else; closing waits a moment for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release(self, leases: Sequence[str]) -> None:
        for lease in leases:
            try:
                await self.call("defer", protocol.Defer(lease=lease))
            except BusError as e:
                _log.info("a lease was not handed back, it will run out: %s", e)

    def _check(self) -> None:
        if self._closed:
            raise Closed("the bus is closed")

    async def aclose(self) -> None:
        if self._closed:
            return
        for member in list(self.members):
            await member.__aexit__(None, None, None)
        for watch in list(self._watches):
            watch.end()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self.patience, CLOSING)):
                while self._calls:
                    await self._called.wait()
        self._replies.close()
        await self.link.aclose()

    def statistics(self) -> Statistics:
        return Statistics(
            self._published, self._received, self.dropped, self.refused, self.link.reconnects
        )

    def refuse(self, event: Event[Any]) -> None:
        """The broker refused one of ours."""
        self.refused += 1
        error = refusal(event.data.code, event.data.message)
        if not self._replies.fail(event.data.id, error):
            _log.error("the broker refused event %s: %s", event.data.id, event.data.message)


class _Replies:
    """The answers to requests, by the id of the request."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[asyncio.Future[Event[Any]], tuple[str, ...]]] = {}

    def expect(self, name: str, types: tuple[str, ...]) -> asyncio.Future[Event[Any]]:
        if name in self._waiting:
            raise ValueError(f"a request with the id {name} is under way already")
        future: asyncio.Future[Event[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[name] = (future, types)
        return future

    def forget(self, name: str, future: asyncio.Future[Event[Any]]) -> None:
        if name in self._waiting and self._waiting[name][0] is future:
            del self._waiting[name]
        if future.done() and not future.cancelled():
            future.exception()  # seen

    def push(self, event: Event[Any]) -> None:
        # A request that itself belongs to a batch passes the batch's id on as correlation.
        for name in (event.correlation_id, event.causation_id):
            found = self._waiting.get(name) if name else None
            if found is not None and event.type in found[1] and not found[0].done():
                found[0].set_result(event)
                return

    def fail(self, name: str, error: Exception) -> bool:
        found = self._waiting.get(name)
        if found is None or found[0].done():
            return False
        found[0].set_exception(error)
        return True

    def close(self) -> None:
        for name in list(self._waiting):
            self.fail(name, Closed("the bus was closed before an answer came"))


class _Refusals:
    """The broker's `event.refused` for this source."""

    def __init__(self, bus: ClientBus) -> None:
        self._bus = bus

    def push(self, event: Event[Any]) -> None:
        self._bus.refuse(event)


class _Heartbeats:
    """The broker's heads, for whoever watches durable events."""

    def __init__(self, watches: set[Watch]) -> None:
        self._watches = watches

    def push(self, event: Event[Any]) -> None:
        if event.source == BROKER and event.data.heads is not None:
            for watch in self._watches:
                watch.beyond(event.data.heads)


class _Numbered(msgspec.Struct):
    sequence: int = 0
    type: str = ""


def _raw(event: Event[Any]) -> msgspec.Raw:
    return msgspec.Raw(schemas.frames(event)[1])


def _read(answer: bytes, kind: type[_T]) -> _T:
    return msgspec.json.decode(answer, type=kind)


def _kinds(kinds: Kinds) -> tuple[type[Payload], ...]:
    chosen = (kinds,) if isinstance(kinds, type) else tuple(kinds)
    if not chosen:
        raise ValueError("no event type was named")
    return chosen
