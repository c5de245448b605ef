"""The events of the bus for many readers: one subscription, one short memory, no queue for each.

Durable events stand once in a shared memory of the newest ones; a reader is a number, the sequence
up to which it was told. One that is further behind reads the journal until it has caught up, and
one that reads slowly costs nothing but its own place. Only live events wait for each reader, and a
reader for which too many wait is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from bus import Bus, BusError, Closed
from schemas import (
    EncodeRequested,
    Event,
    FleetHeartbeat,
    Lane,
    Payload,
    SkillListRequested,
    catalogue,
    encode,
)

__all__ = ["DEFAULT", "STREAMED", "EventLog", "Reader", "frame", "notice"]

STREAMED: Final[dict[str, type[Payload]]] = {
    name: kind
    for name, kind in catalogue().items()
    # Who holds a key is told what the fleet does, not what other clients ask it.
    if not kind.addressed and kind not in (EncodeRequested, SkillListRequested)
}
"""What can be listened to."""

DEFAULT: Final = tuple(name for name in STREAMED if name != FleetHeartbeat.type)
"""What is, by who names nothing."""

KEPT: Final = 2000
"""Durable events in the shared memory ..."""

KEPT_BYTES: Final = 8 << 20
"""... and the bytes of them that it holds at most."""

WAITING: Final = 1000
"""Live events that may wait for one reader ..."""

WAITING_BYTES: Final = 8 << 20
"""... and their bytes; beyond either it is too slow."""

TURN: Final = 32
"""Live events that are passed on before readers have their turn."""

PAGE: Final = 100
"""Events that a reader is given at a time."""

RETRY: Final = 0.5
"""Seconds until the journal is read again that did not answer."""

_log = logging.getLogger(__name__)


class _Kept(NamedTuple):
    sequence: int
    type: str
    frame: bytes


def frame(event: Event[Any]) -> bytes:
    """One server-sent event: its type, the whole CloudEvent, and the sequence of a durable one."""
    number = b"" if event.sequence is None else b"id: %d\n" % event.sequence
    return b"%sevent: %s\ndata: %s\n\n" % (number, event.type.encode(), encode(event))


class EventLog:
    """`async with EventLog(bus) as log: reader = log.reader(types, after)`.

    Entering raises `bus.BusError` where the bus is away.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._kept: deque[_Kept] = deque()
        self._size = 0
        self.floor = 0
        """Everything beyond this sequence, up to the head, is in memory."""
        self.head = 0
        self.over = False
        """It hears nothing any more."""
        self.readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EventLog:
        live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._listen(live), name="event log")
        await asyncio.wait({self._task, live}, return_when=asyncio.FIRST_COMPLETED)
        if not live.done():
            live.cancel()
            await self._task
        return self

    async def __aexit__(self, *_: object) -> None:
        for reader in tuple(self.readers):
            reader.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def reader(self, types: Collection[str], after: int | None) -> Reader:
        """A reader of these types of `STREAMED`: of durable ones what follows the sequence `after`,
        or from now on. It must be closed. Raises `bus.BusError`."""
        lost: int | None = None
        if after is None:
            after = self.head
        elif after > self.head:
            newest = max((await self._bus.heads()).values(), default=0)
            if after > newest:  # a number of another journal
                lost, after = after, newest
        reader = Reader(self, types, after, lost)
        self.readers.add(reader)
        return reader

    async def _listen(self, live: asyncio.Future[None]) -> None:
        try:
            async with self._bus.watch(tuple(STREAMED.values())) as events:
                # What came in since the subscription is live, up to here, the journal tells.
                self.head = self.floor = max((await self._bus.heads()).values(), default=0)
                live.set_result(None)
                told = 0
                async for event in events:
                    if event.sequence is None:
                        self._tell(event)
                        told += 1
                        if told % TURN == 0:  # a burst is nobody's slowness
                            await asyncio.sleep(0)
                    elif event.sequence == self.head + 1:
                        self._keep([event])
                    elif event.sequence > self.head:
                        await self._catch_up()
        except Exception:
            if not live.done():
                raise
            _log.exception("nothing more is told to those who listen")
        finally:
            self.over = True
            for reader in tuple(self.readers):
                reader.end()

    async def _catch_up(self) -> None:
        """Read what is missing: readers are told everything in order, and everything once."""
        while True:
            try:
                page = await self._bus.read(after=self.head, limit=500)
            except Closed:
                return
            except BusError as error:
                _log.warning("the journal was not read, trying again: %s", error)
                await asyncio.sleep(RETRY)
                continue
            if not page.events:
                return
            self._keep(page.events)

    def _keep(self, events: Sequence[Event[Any]]) -> None:
        before = self.head
        for event in events:
            kept = _Kept(event.sequence or 0, event.type, frame(event))
            self._kept.append(kept)
            self._size += len(kept.frame)
            self.head = kept.sequence
        while len(self._kept) > KEPT or self._size > KEPT_BYTES:
            gone = self._kept.popleft()
            self._size -= len(gone.frame)
            self.floor = gone.sequence
        types = {event.type for event in events}
        for reader in self.readers:
            reader.wake(types, before)

    def _tell(self, event: Event[Any]) -> None:
        told: bytes | None = None
        for reader in self.readers:
            if event.type in reader.types:
                told = told or frame(event)
                reader.offer(told)

    async def following(self, types: Collection[str], after: int) -> tuple[list[bytes], int, bool]:
        """Durable events of some types beyond a sequence: their frames, up to where that is all
        there is, and whether some were there no more. Raises `bus.BusError`."""
        if after >= self.floor:
            # The memory is short, and its end is what is nearly always asked for.
            newest = islice(reversed(self._kept), min(len(self._kept), self.head - after))
            found = [kept for kept in newest if kept.sequence > after and kept.type in types]
            page = found[::-1][:PAGE]
            through = page[-1].sequence if len(page) < len(found) else self.head
            return [kept.frame for kept in page], through, False
        kinds = [STREAMED[name] for name in types if STREAMED[name].lane is Lane.DURABLE]
        if not kinds:
            return [], self.head, False
        begin = self.floor  # of what lies before it nothing can come any more
        read = await self._bus.read(kinds, after=after, limit=PAGE)
        through = (read.events[-1].sequence or 0) if read.events else max(after, begin)
        return [frame(event) for event in read.events], through, read.truncated


class Reader:
    """One who listens; `async for frames in reader.frames(pause)`."""

    def __init__(
        self, log: EventLog, types: Collection[str], after: int, lost: int | None = None
    ) -> None:
        """`lost`: what it asked for, where the journal has never been so far."""
        self.types = frozenset(types)
        self.slow = False
        """Too many live events waited."""
        self._log = log
        self._after = after
        self._lost = lost
        self._live: deque[bytes] = deque()
        self._size = 0
        self._ready = asyncio.Event()
        self._ended = False

    @property
    def after(self) -> int:
        """The sequence up to which it was told everything."""
        return self._after

    def offer(self, told: bytes) -> None:
        """A live event."""
        self._size += len(told)
        if len(self._live) >= WAITING or self._size > WAITING_BYTES:
            self.slow = True
            self.end()
            return
        self._live.append(told)
        self._ready.set()

    def wake(self, types: Collection[str], before: int) -> None:
        """Durable events of these types, beyond the sequence `before`, are in memory."""
        if not self.types.isdisjoint(types):
            self._ready.set()
        elif self._after >= before:  # it need not look for what is not for it
            self._after = max(self._after, self._log.head)

    def end(self) -> None:
        """Nothing more is to be told."""
        self._ended = True
        self._ready.set()

    def close(self) -> None:
        """Forget it."""
        self.end()
        self._log.readers.discard(self)

    async def frames(self, pause: float) -> AsyncIterator[bytes]:
        """What there is, as it comes, in pieces of a bounded size; an empty one after `pause`
        seconds without any. Ends when the reader is ended; raises `bus.BusError`."""
        warned = self._lost is not None
        if warned:
            yield notice("truncated", after=self._lost, head=self._after)
        while not self._ended:
            self._ready.clear()
            if self._after < self._log.head:
                before = self._after
                found, self._after, truncated = await self._log.following(self.types, before)
                if truncated and not warned:
                    warned = True
                    yield notice("truncated", after=before, head=self._log.head)
                if found:
                    yield b"".join(found)
                if self._after < self._log.head:
                    self._ready.set()  # there is more; live events have their turn before it
            if self._live:
                told = b"".join(self._live.popleft() for _ in range(min(PAGE, len(self._live))))
                self._size -= len(told)
                if self._live:
                    self._ready.set()
                yield told
            try:
                async with asyncio.timeout(pause):
                    await self._ready.wait()
            except TimeoutError:
                yield b""


def notice(name: str, **data: object) -> bytes:
    """An event of the stream's own, that is none of the fleet's."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
