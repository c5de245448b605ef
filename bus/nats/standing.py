"""Groups as those see them who look after the journal: how far behind they are, and their end."""

from __future__ import annotations

import asyncio
from collections import Counter

from bus import protocol
from bus.contract import GroupState
from bus.errors import Consumed
from bus.journal.groups import FAR
from bus.nats.clock import Clock
from bus.nats.group import Group
from bus.nats.letters import Letters
from bus.nats.names import OWN, Names
from bus.nats.presence import Presence
from bus.nats.rooms import Rooms
from bus.nats.server import Server, Stored

__all__ = ["Standing"]


class Standing:
    """Tells of groups, and drops them."""

    def __init__(
        self,
        server: Server,
        names: Names,
        rooms: Rooms,
        letters: Letters,
        presence: Presence,
        clock: Clock,
    ) -> None:
        self._server = server
        self._names = names
        self._rooms = rooms
        self._letters = letters
        self._presence = presence
        self._clock = clock

    async def every(self, end: float) -> list[GroupState]:
        """How every group stands, by name."""
        subjects = await self._server.subjects(self._names.groups, self._names.every_group, end)
        dead = await self._dead(end)
        names = {*map(self._names.group_of, subjects), *dead}
        groups = sorted(name for name in names if not name.startswith(OWN))
        await self._clock.measure(end)
        found = await asyncio.gather(*(self._state(name, dead[name], end) for name in groups))
        return [state for state in found if state is not None]

    async def drop(self, asked: protocol.Drop, end: float) -> list[GroupState]:
        """Forget a group; how it stood, none where there is none of that name.

        Raises `Consumed` while somebody consumes as it, unless by force.
        """
        dead = await self._dead(end)
        await self._clock.measure(end)
        found = await self._state(asked.group, dead[asked.group], end)
        if found is None:
            return []
        if found.consumed and not asked.force:
            raise Consumed.of(asked.group)

        async def cleared(group: Group) -> tuple[bool, None]:
            if group.is_held(self._clock()) and not asked.force:  # since a moment ago
                raise Consumed.of(asked.group)
            changed = group.there
            group.clear()
            return changed, None

        # Emptied and not deleted: what a late write was made of shows that it came too late.
        await self._rooms.change(asked.group, cleared, end, fresh=True)
        for letter in await self._letters.every(end):
            if letter.group == asked.group:
                await self._letters.drop(letter, end)
        return [found]

    async def _dead(self, end: float) -> Counter[str]:
        """How many dead letters each group has."""
        letters = await self._server.subjects(self._names.dead, self._names.every_letter, end)
        return Counter(map(self._names.group_of, letters))

    async def _state(self, name: str, dead: int, end: float) -> GroupState | None:
        """How a group stands; None where nothing is left of it, or never was."""
        group = await self._rooms.look(name, end)
        if not group.there and not dead:
            return None
        rows = [row.sequence for row in group.rows if not row.dead]
        counts = await asyncio.gather(*(self._beyond(*each, end) for each in group.cursors.items()))
        counts.append(len(rows))
        oldest = await self._oldest(group, min(rows, default=None), end) if any(counts) else None
        return GroupState(
            name=name,
            types=tuple(sorted(group.cursors)),
            behind=sum(min(count, FAR) for count in counts),
            more=any(count > FAR for count in counts),
            since=None if oldest is None else oldest.time,
            consumed=group.is_held(self._clock()) or await self._presence.anybody(name, end),
            dead=dead,
        )

    async def _beyond(self, kind: str, after: int, end: float) -> int:
        return await self._server.count(self._names.journal, self._names.events(kind), after, end)

    async def _oldest(self, group: Group, taken: int | None, end: float) -> Stored | None:
        """The first event that the group has yet to acknowledge; `taken`: of those in its hands."""
        journal = self._names.journal
        asked = [
            self._server.following(journal, self._names.events(kind), after, end)
            for kind, after in group.cursors.items()
        ]
        if taken is not None:
            asked.append(self._server.get(journal, end, seq=taken))
        found = [stored for stored in await asyncio.gather(*asked) if stored is not None]
        return min(found, key=lambda stored: stored.sequence, default=None)
