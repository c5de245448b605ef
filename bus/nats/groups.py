"""What a group's members ask: leases, and their ends.

JetStream's own consumers are not used: they would redeliver by one time for all members,
acknowledge for whoever lost a lease, count what was deferred, and follow one type each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from bus import protocol
from bus.errors import Refused
from bus.nats.clock import Clock
from bus.nats.connection import Connection
from bus.nats.group import Group, Row, stale
from bus.nats.letters import Letters
from bus.nats.names import Names
from bus.nats.presence import Presence
from bus.nats.rooms import Change, Room, Rooms
from bus.nats.server import Server, Stretch, gathered
from bus.nats.stamped import is_erased, numbered
from bus.nats.standing import Standing

__all__ = ["Groups"]

_T = TypeVar("_T")
LEASE_BYTES = 8 * 2**20
ROWS = 5_000
"""Events that a group may have taken and not ended; beyond it nothing new is handed out."""
MARGIN = 10.0
"""Seconds that a lease holds at least while what its step derived is being published."""
LOOK = 5.0
"""Seconds after which who waits for a lease looks by itself, should nothing have woken it."""
ONE_BY_ONE = 2
"""New events that are asked for singly; beyond it a page is read."""


class _Attempt(NamedTuple):
    granted: list[protocol.Granted]
    due: float | None
    """When something of the group changes by itself (the servers' time)."""
    dead: bool = False
    """Whether something became a dead letter."""


class Groups:
    """The leases of all groups, as one connection sees them."""

    def __init__(
        self, connection: Connection, server: Server, names: Names, letters: Letters, clock: Clock
    ) -> None:
        self._connection = connection
        self._server = server
        self._names = names
        self._letters = letters
        self._clock = clock
        self._rooms = Rooms(server, names)
        self._presence = Presence(connection, names)
        self.standing = Standing(server, names, self._rooms, letters, self._presence, clock)
        self._stops: dict[bytes, asyncio.Event] = {}

    def resume(self) -> None:
        """The connection is back: what happened meanwhile was not heard."""
        self._clock.forget()
        self._rooms.resume()

    # leasing

    async def lease(
        self, asked: protocol.Lease, request: bytes, end: float
    ) -> list[protocol.Granted]:
        """What is due, waiting for it as asked; a request of the same id ends the wait."""
        loop = asyncio.get_running_loop()
        room = self._rooms.room(asked.group)
        before = self._stops.pop(request, None)
        if before is not None:
            before.set()
            room.wake()
        stop = self._stops[request] = asyncio.Event()
        until = loop.time() + asked.wait_ms / 1000
        try:
            async with self._presence.asking(asked.group):
                await self._hear(room, asked, end)
                while True:
                    version = room.version
                    found = await self._attempt(asked, end)
                    left = until - loop.time()
                    if found.granted or stop.is_set() or asked.max <= 0 or left <= 0:
                        return found.granted
                    due = LOOK if found.due is None else found.due - self._clock() + 0.002
                    if version == room.version:
                        await self._wait(room, max(0.0, min(left, LOOK, due)))
                    if stop.is_set():
                        return []
        finally:
            if self._stops.get(request) is stop:
                del self._stops[request]

    @staticmethod
    async def _wait(room: Room, seconds: float) -> None:
        try:
            await room.changed.wait(seconds)
        except TimeoutError:
            return

    async def _hear(self, room: Room, asked: protocol.Lease, end: float) -> None:
        """Be woken by new events of these types, and by what others do to the group."""
        news = [kind for kind in asked.types if kind not in room.kinds]

        async def woken(_: object) -> None:
            room.wake()

        if not news and room.joined:
            return
        for kind in news:
            await self._connection.subscribe(self._names.told(kind), woken)
            room.kinds.add(kind)
        if not room.joined:
            await self._connection.subscribe(self._names.group(asked.group), woken)
            room.joined = True
        await self._connection.flush(max(0.0, end - asyncio.get_running_loop().time()))

    async def _attempt(self, asked: protocol.Lease, end: float) -> _Attempt:
        await self._clock.measure(end)

        async def take(group: Group) -> tuple[bool, _Attempt]:
            now = self._clock()
            changed = await self._declare(group, asked, end)
            if asked.max <= 0:
                return changed, _Attempt([], None)
            changed |= await self._bury(asked.group, group, end)
            changed |= group.lapsed(now)
            taken, gone = await self._waiting(group, asked, now, end)
            alone = bool(taken) and taken[0][0].suspect
            if len(taken) < asked.max and not alone and len(group.rows) < ROWS:
                fresh, moved = await self._fresh(group, asked, asked.max - len(taken), end)
                taken += fresh
                changed = changed or moved
            until = self._clock() + asked.visibility_ms / 1000
            for row, _ in taken:
                group.grant(row, until)
            granted = [
                protocol.Granted(f"{row.lease}.{asked.group}", row.attempt, msgspec.Raw(raw))
                for row, raw in taken
            ]
            attempt = _Attempt(granted, group.next_due(now), bool(group.dead))
            return changed or gone or bool(taken), attempt

        attempt = await self._rooms.change(asked.group, take, end, fresh=True)
        if attempt.dead:
            await self._write_letters(asked.group, end)
        return attempt

    async def _declare(self, group: Group, asked: protocol.Lease, end: float) -> bool:
        """Fix where the group begins the types that are new to it."""
        news = [kind for kind in asked.types if kind not in group.cursors]
        for kind in news:
            last = None
            if asked.start == "latest":
                last = await self._server.last(self._names.journal, self._names.events(kind), end)
            group.cursors[kind] = last.sequence if last is not None else 0
        return bool(news)

    async def _waiting(
        self, group: Group, asked: protocol.Lease, now: float, end: float
    ) -> tuple[list[tuple[Row, bytes]], bool]:
        """What came back and is due, with its event; and whether something of it is gone."""
        taken: list[tuple[Row, bytes]] = []
        gone: list[Row] = []
        size = 0
        for row in group.waiting(asked.types, asked.max, now):
            stored = await self._server.get(self._names.journal, end, seq=row.sequence)
            if stored is None or is_erased(stored):
                gone.append(row)
                continue
            taken.append((row, numbered(stored, row.kind, None)))
            size += len(stored.body)
            if size >= LEASE_BYTES:
                break
        group.remove(gone)
        return taken, bool(gone)

    async def _fresh(
        self, group: Group, asked: protocol.Lease, limit: int, end: float
    ) -> tuple[list[tuple[Row, bytes]], bool]:
        """What the group has not seen yet, in order; and whether a cursor moved."""

        async def following(kind: str) -> Stretch:
            subject, after = self._names.events(kind), group.cursors[kind]
            if limit > ONE_BY_ONE:
                return await self._server.stretch(self._names.journal, subject, after, limit, end)
            found = await self._server.following(self._names.journal, subject, after, end)
            return Stretch([], whole=True) if found is None else Stretch([found], whole=False)

        kinds = list(dict.fromkeys(asked.types))
        stretches = await asyncio.gather(*map(following, kinds))
        if len(kinds) > 1 and any(stretch.messages for stretch in stretches):
            # One may have come of a type that had none, and before what came of the others since.
            last = max(stretch.messages[-1].sequence for stretch in stretches if stretch.messages)
            for place, kind in enumerate(kinds):
                if stretches[place].whole:
                    again = await following(kind)
                    early = [stored for stored in again.messages if stored.sequence <= last]
                    stretches[place] = Stretch(
                        early, again.whole or len(early) < len(again.messages)
                    )
        messages, _ = gathered(stretches, limit)
        taken: list[tuple[Row, bytes]] = []
        size = 0
        for stored in messages:
            kind = self._names.kind(stored.subject)
            group.cursors[kind] = stored.sequence
            if is_erased(stored):
                continue
            row = Row(stored.sequence, kind, 0.0)
            group.rows.append(row)
            taken.append((row, numbered(stored, kind, None)))
            size += len(stored.body)
            if size >= LEASE_BYTES:
                break
        if messages and not taken:  # all of it was erased: what follows may not be
            taken, _ = await self._fresh(group, asked, limit, end)
        return taken, bool(messages)

    # the ends of leases

    async def ack(
        self,
        leases: Sequence[str],
        receipt: str,
        publish: Callable[[], Awaitable[_T]],
        end: float,
        *,
        publishes: bool,
    ) -> _T:
        """Publish, then end the leases; raises `StaleLease`.

        The leases are known to hold, and to hold on for a while, before anything is published.
        """
        by_group: dict[str, list[str]] = {}
        for lease in dict.fromkeys(leases):
            short, group = _parts(lease)
            by_group.setdefault(group, []).append(short)
        if publishes:
            for name, shorts in by_group.items():
                await self._hold(name, shorts, receipt, end)
        published = await publish()
        for name, shorts in by_group.items():

            async def done(group: Group, shorts: list[str] = shorts) -> tuple[bool, None]:
                rows = _rows(group, shorts, receipt, self._clock())
                group.end(rows, receipt)
                group.remove(rows)
                return bool(rows), None

            await self._change(name, done, end)
        return published

    async def _hold(self, name: str, leases: list[str], receipt: str, end: float) -> None:
        async def hold(group: Group) -> tuple[bool, None]:
            now = self._clock()
            short = [r for r in _rows(group, leases, receipt, now) if r.due < now + MARGIN]
            for row in short:
                row.due = now + MARGIN
            return bool(short), None

        await self._change(name, hold, end)

    async def nack(self, asked: protocol.Nack, receipt: str, end: float) -> None:
        """Failed: wait, or to the dead letters; raises `StaleLease`."""
        short, name = _parts(asked.lease)

        async def fail(group: Group) -> tuple[bool, bool]:
            now = self._clock()
            rows = _rows(group, [short], receipt, now)
            group.end(rows, receipt)
            for row in rows:
                failed = row.failed + 1
                if asked.dead or self._letters.too_many(failed):
                    group.bury(row, asked.reason or "no reason was given")
                else:
                    due = now + asked.delay_ms / 1000
                    group.wait(row, due, failed=failed, attempt=row.attempt)
            return bool(rows), bool(group.dead)

        if await self._change(name, fail, end):
            await self._write_letters(name, end)

    async def defer(self, asked: protocol.Defer, receipt: str, end: float) -> None:
        """Not yet, uncounted; raises `StaleLease`."""
        short, name = _parts(asked.lease)
        if asked.until is not None and asked.until.tzinfo is None:
            raise Refused("until needs a time zone: 2030-01-01T00:00:00Z")

        async def put_off(group: Group) -> tuple[bool, None]:
            now = self._clock()
            rows = _rows(group, [short], receipt, now)
            group.end(rows, receipt)
            until = asked.until.timestamp() + self._clock.offset if asked.until else now
            for row in rows:
                group.wait(row, max(until, now), failed=row.failed, attempt=row.attempt - 1)
            return bool(rows), None

        await self._change(name, put_off, end)

    async def extend(self, asked: protocol.Extend, end: float) -> None:
        """Keep a lease from now; raises `StaleLease`."""
        short, name = _parts(asked.lease)

        async def keep(group: Group) -> tuple[bool, None]:
            now = self._clock()
            (row,) = _rows(group, [short], "", now)
            row.due = now + asked.visibility_ms / 1000
            return True, None

        await self._change(name, keep, end)

    async def readmit(self, name: str, sequence: int, kind: str, end: float) -> None:
        """Deliver an event again, as if for the first time."""

        async def again(group: Group) -> tuple[bool, None]:
            group.rows = [row for row in group.rows if row.sequence != sequence]
            group.rows.append(Row(sequence, kind, self._clock()))
            return True, None

        await self._change(name, again, end)

    async def _change(self, name: str, change: Change[_T], end: float) -> _T:
        await self._clock.measure(end)
        return await self._rooms.change(name, change, end)

    async def _write_letters(self, name: str, end: float) -> None:
        async def bury(group: Group) -> tuple[bool, None]:
            return await self._bury(name, group, end), None

        await self._change(name, bury, end)

    async def _bury(self, name: str, group: Group, end: float) -> bool:
        """Write the letters of those that the group, as it is stored, gave up; whether any."""
        dead = group.dead
        for row in dead:
            stored = await self._server.get(self._names.journal, end, seq=row.sequence)
            if stored is not None and not is_erased(stored):
                await self._letters.write(name, row, row.dead, stored, end)
        group.remove(dead)
        return bool(dead)


def _parts(lease: str) -> tuple[str, str]:
    """A lease's own name, and its group's."""
    short, dot, group = lease.partition(".")
    if not dot:
        raise stale(lease)
    return short, group


def _rows(group: Group, leases: Sequence[str], receipt: str, now: float) -> list[Row]:
    """The rows of leases that all hold; none where this request ended them before."""
    found = [group.leased(lease, now) for lease in leases]
    rows = [row for row in found if row is not None]
    if len(rows) < len(leases):
        if group.was_ended(leases, receipt):
            return []
        raise stale(next(name for name, row in zip(leases, found, strict=True) if row is None))
    return rows
