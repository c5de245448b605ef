"""The bus that services hold: the contract, over any link to a broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Coroutine, Generator, Iterator, Sequence
from typing import Any

import msgspec

import schemas
from bus import protocol
from bus.client.appending import Appender
from bus.client.asking import Question
from bus.client.consumer import Leased, Member
from bus.client.reading import JournalReader, kinds_of
from bus.client.sinks import Heartbeats, Refusals, Replies, Sink, Topics
from bus.client.subscription import Watch
from bus.contract import Delivery, Kinds, Start, Statistics
from bus.errors import (
    BusError,
    Closed,
    NotPermitted,
    Refused,
    StaleLease,
    Unreachable,
    refusal,
)
from bus.link import Link
from bus.signal import Signal
from bus.sockets import BUDGET
from schemas import Event, Lane

__all__ = ["ClientBus"]

MAX_RESEND = 30.0
CLOSING = 5.0
"""Seconds that closing waits for the journal's answers."""
YIELD = BUDGET
"""Sends in one go, before others in the loop have their turn: as many as are heard in one, or
whoever answers each message falls behind what it hears, and drops the rest."""
FULL_PAUSES = (0.001, 0.004, 0.015, 0.06, 0.24)
"""Seconds between attempts to send over a queue that is full, before an event is dropped."""
_UNNUMBERED = (None,)
_log = logging.getLogger(__name__)


class ClientBus(JournalReader):
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
        self._topics = Topics(link)
        self._watches: set[Watch] = set()
        self._mending: set[Watch] = set()
        """Those of durable events: by the broker's heartbeats they learn of what they missed."""
        self._replies = Replies()
        self._refusals = Refusals(self.refuse)
        self._heartbeats = Heartbeats(self._mending)
        self._closed = False
        link.on_message = self._dispatch
        link.on_stray = self._stray
        self._answerable: set[str] = set()
        """Topics of answers whose subscription is live."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._called = Signal()
        self._appender = Appender(link, lambda: self.patience)

    async def open(self) -> None:
        """Hear the broker's refusals; raises `Unreachable`, `NotPermitted`."""
        topic = f"{schemas.EventRefused.type}@{self.source}"
        self.add(self._refusals, [topic])
        await self.confirm([topic])

    # topics

    def add(self, sink: Sink, topics: Sequence[str]) -> None:
        """Send these topics to a sink; live after `confirm`."""
        self._check()
        self._topics.add(sink, topics)
        if isinstance(sink, Watch):
            self._watches.add(sink)
            if sink.durable:
                if not self._mending:
                    self.add(self._heartbeats, [schemas.FleetHeartbeat.type])
                self._mending.add(sink)

    def remove(self, sink: Sink, topics: Sequence[str]) -> None:
        """Undo `add`."""
        self._topics.remove(sink, topics)
        if isinstance(sink, Watch):
            self._watches.discard(sink)
            if sink in self._mending:
                self._mending.discard(sink)
                if not self._mending:
                    self.remove(self._heartbeats, [schemas.FleetHeartbeat.type])

    async def confirm(self, topics: Collection[str]) -> None:
        """Return once what was added is live; raises `NotPermitted` where one of `topics` is not
        for this key."""
        unheard = await self.link.confirm(self.patience)
        refused = sorted({*topics} & {*unheard.topics}) if unheard else []
        if unheard and refused:
            raise NotPermitted(f"{unheard.message}: not {', '.join(refused)}")

    def _dispatch(self, message: Sequence[bytes]) -> None:
        try:
            sinks = self._topics.sinks.get(message[0])
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
            if self._sends % YIELD and self.link.send(message):  # nearly always
                self._sends += 1
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
                await self._send(message)
        return tuple(found)

    async def _send(self, message: Sequence[bytes]) -> None:
        if self._sends % YIELD == 0:
            await asyncio.sleep(0)  # who publishes in a loop must hear, too
        self._sends += 1
        for pause in self._attempts(message):
            await asyncio.sleep(pause)

    def _attempts(self, message: Sequence[bytes]) -> Generator[float, None, None]:
        """Send; while the queue is full, the seconds until the next attempt."""
        for pause in FULL_PAUSES:
            if self.link.send(message):
                self._published += 1
                return
            if not self.link.live:
                break
            try:
                yield pause
            except GeneratorExit:  # given up meanwhile
                self.dropped += 1
                raise
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
        return Watch(self, kinds_of(kinds), to or self.address, after, buffer)

    def consume(
        self,
        group: str,
        kinds: Kinds,
        *,
        max_leases: int = 1,
        visibility: float = 30.0,
        start: Start = "earliest",
    ) -> Member:
        chosen = kinds_of(kinds)
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
        chosen = kinds_of(replies)
        topics = [f"{kind.type}@{self.address}" for kind in chosen]
        message = schemas.frames(event)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        answer = self._replies.expect(event.id, tuple(kind.type for kind in chosen))
        late = f"nobody answered {event.type} {event.id} within {timeout:g} s"
        question = Question(answer, self._asking(message, resend), end=end, late=late)
        try:
            if not self._answerable.issuperset(topics):
                await self._hear_answers(topics, end)
            question.go_on()
            return await answer
        finally:
            question.end()
            self._replies.forget(event.id, answer)

    def _asking(self, message: Sequence[bytes], resend: float) -> Generator[float, None, None]:
        """Send, and send again; the seconds until it is to go on."""
        while True:
            self._check()
            yield from self._attempts(message)
            yield resend
            resend = min(2 * resend, MAX_RESEND)

    async def _hear_answers(self, topics: Sequence[str], end: float) -> None:
        """Listen to answers, once and for all; given up at `end`, the loop's time."""
        loop = asyncio.get_running_loop()
        self.add(self._replies, topics)
        while (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self.confirm(topics)
            except TimeoutError:
                return
            except Unreachable:  # the patience of this bus is not that of its caller
                continue
            self._answerable.update(topics)
            return

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
            self._published,
            self._received,
            self.dropped + self.link.shed,
            self.refused,
            self.link.reconnects,
        )

    def refuse(self, event: Event[Any]) -> None:
        """The broker refused one of ours."""
        self.refused += 1
        error = refusal(event.data.code, event.data.message)
        if not self._replies.fail(event.data.id, error):
            _log.error("the broker refused event %s: %s", event.data.id, event.data.message)


def _raw(event: Event[Any]) -> msgspec.Raw:
    return msgspec.Raw(schemas.frames(event)[1])
