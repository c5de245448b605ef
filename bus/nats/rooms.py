"""Groups as messages of a stream, each changed by compare and set.

A change reads the group, decides, and stores it anew on the condition that nobody else did; who
lost that race reads again. So members on any host see one order of changes, whichever server
answers them.

One server keeps that condition. Several do not always: whoever leads looks before the others agreed
to what came just before, and of two writes at once may take both (nats-server issues 4320, 8469).
There no server is asked to: every state says of which one it was made, a few states are kept, and
who reads them passes over what was made of one that had a successor already. The stream's order
decides.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec

from bus.errors import Refused, Unreachable
from bus.nats.group import Group
from bus.nats.names import Names
from bus.nats.server import SETTLE, Moved, Server, Stored
from bus.signal import Signal

__all__ = ["Change", "Room", "Rooms"]

_T = TypeVar("_T")
Change = Callable[[Group], Awaitable[tuple[bool, _T]]]
"""Changes a group in place; says whether it did, and what came of it. It may be asked again."""


class Seen(NamedTuple):
    """A group as it was stored."""

    body: bytes
    sequence: int


class _Based(msgspec.Struct):
    base: int = 0


class Room:
    """What this connection knows of one group."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.kinds: set[str] = set()
        """Types whose news are heard."""
        self.joined = False
        self.version = 0
        self.changed = Signal()
        self.cached: Seen | None = None

    def wake(self) -> None:
        """Something may be due: look again."""
        self.version += 1
        self.changed.set()


class Rooms:
    """What this connection knows of all groups."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names
        self._rooms: dict[str, Room] = {}

    def room(self, name: str) -> Room:
        """That of a group."""
        return self._rooms.setdefault(name, Room())

    def resume(self) -> None:
        """The connection is back: what happened meanwhile was not heard."""
        for room in self._rooms.values():
            room.cached = None
            room.wake()

    async def change(self, name: str, change: Change[_T], end: float, *, fresh: bool = False) -> _T:
        """Apply a change to the group as it is now.

        One that refuses what is cached sees the group anew, and so does one that came too late.
        With `fresh` nothing cached is used. Raises what the change raises, and `Unreachable`.
        """
        room = self.room(name)
        async with room.lock:
            return await self._change(name, room, change, end, fresh)

    async def _change(
        self, name: str, room: Room, change: Change[_T], end: float, fresh: bool
    ) -> _T:
        subject = self._names.group(name)
        writer = secrets.token_hex(8)
        pause = 0.001
        while True:
            cached = None if fresh else room.cached
            seen = cached or await self._seen(subject, end)
            group = msgspec.json.decode(seen.body, type=Group)
            try:
                changed, result = await change(group)
            except Refused:
                if cached is None:
                    raise
                fresh = True
                continue
            room.cached = seen
            if not changed:
                return result
            group.writer, group.base = writer, seen.sequence
            body = msgspec.json.encode(group)
            try:
                expected = None if self._server.connection.clustered else seen.sequence
                last = await self._server.store(subject, body, end, expected=expected)
                sequence = await self._settled(subject, seen, body, last, end)
            except Moved:
                stored = await self._seen(subject, end)
                if stored.body != body:
                    if asyncio.get_running_loop().time() >= end:
                        raise Unreachable(f"others change {name} again and again") from None
                    await asyncio.sleep(random.random() * pause)
                    pause, fresh = min(2 * pause, 0.1), True
                    continue
                sequence = stored.sequence  # it was this write, whose answer was lost
            room.cached = Seen(body, sequence)
            return result

    async def _seen(self, subject: str, end: float) -> Seen:
        last = await self._server.last(self._names.groups, subject, end)
        if last is None:
            return Seen(b"{}", 0)
        if not self._server.connection.clustered:
            return Seen(last.body, last.sequence)
        base = head = _base(last)
        found: Stored | None = None
        at = base
        while at < last.sequence:
            each = await self._next(subject, at, end)
            if _base(each) == head:
                found, head = each, each.sequence
            at = each.sequence
        if found is None:  # all that followed came too late
            found = await self._server.get(self._names.groups, end, seq=base)
        return Seen(found.body if found else b"{}", head)

    async def _settled(self, subject: str, seen: Seen, body: bytes, mine: int, end: float) -> int:
        """The sequence of a write, if it was the first on what was seen; raises `Moved`."""
        at = seen.sequence
        while self._server.connection.clustered and at < mine:
            each = await self._next(subject, at, end)
            if _base(each) == seen.sequence:
                if each.body != body:
                    raise Moved
                return each.sequence
            at = each.sequence
        return mine

    async def _next(self, subject: str, after: int, end: float) -> Stored:
        """The message that follows; it is known to be there, if not yet to whoever answers."""
        while True:
            found = await self._server.following(self._names.groups, subject, after, end)
            if found is not None:
                return found
            if asyncio.get_running_loop().time() >= end:
                raise Unreachable(f"the NATS servers do not agree on what follows in {subject}")
            await asyncio.sleep(SETTLE)


def _base(stored: Stored) -> int:
    return msgspec.json.decode(stored.body, type=_Based).base
