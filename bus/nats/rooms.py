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
from collections.abc import Awaitable, Callable, Sequence
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

    async def look(self, name: str, end: float) -> Group:
        """The group as it is now."""
        seen = await self._seen(self._names.group(name), end)
        return msgspec.json.decode(seen.body, type=Group)

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
        base, upto = _base(last), last.sequence
        states = await self._states(subject, base, upto, end)
        if [each.sequence for each in states] == [upto]:
            return Seen(last.body, upto)
        found = await self._kept(subject, base, end)
        if found is None:  # so late that what it was made of is gone: the others tell
            states = await self._states(subject, 0, upto, end)
            found = _anchor(states)
        for each in states:
            if _base(each) == found.sequence:
                found = each
        return Seen(found.body, found.sequence)

    async def _settled(self, subject: str, seen: Seen, body: bytes, mine: int, end: float) -> int:
        """The sequence of a write, if it was the first on what was seen; raises `Moved`."""
        if not self._server.connection.clustered:
            return mine
        states = await self._states(subject, seen.sequence, mine, end)
        first = next((each for each in states if _base(each) == seen.sequence), None)
        if first is None or first.body != body:
            raise Moved
        if first is not states[0] and await self._kept(subject, seen.sequence, end) is None:
            raise Moved  # it came so late that the one before it may be gone, too
        return first.sequence

    async def _states(self, subject: str, after: int, upto: int, end: float) -> list[Stored]:
        """What is kept beyond a sequence, up to another."""
        found: list[Stored] = []
        while after < upto:
            found.append(await self._next(subject, after, end))
            after = found[-1].sequence
        return found

    async def _kept(self, subject: str, sequence: int, end: float) -> Stored | None:
        """A state, if it is still there."""
        if not sequence:
            return None
        found = await self._server.get(self._names.groups, end, seq=sequence)
        return found if found is not None and found.subject == subject else None

    async def _next(self, subject: str, after: int, end: float) -> Stored:
        """The message that follows; it is known to be there, if not yet to whoever answers."""
        while True:
            found = await self._server.following(self._names.groups, subject, after, end)
            if found is not None:
                return found
            if asyncio.get_running_loop().time() >= end:
                raise Unreachable(f"the NATS servers do not agree on what follows in {subject}")
            await asyncio.sleep(SETTLE)


def _anchor(states: Sequence[Stored]) -> Stored:
    """One that counts, of all that are kept: the newest that another was made of, if any was."""
    kept = {each.sequence: each for each in states}
    bases = (_base(each) for each in reversed(states))
    return next((kept[base] for base in bases if base in kept), states[0])


def _base(stored: Stored) -> int:
    return msgspec.json.decode(stored.body, type=_Based).base
