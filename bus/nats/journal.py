"""The journal's requests, answered by JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

import schemas
from bus import protocol
from bus.broker.legible import check_legible
from bus.errors import Refused, TooLarge, Unreachable
from bus.nats.erasing import erase, is_truncated
from bus.nats.group import SETTINGS
from bus.nats.groups import Groups
from bus.nats.letters import Letters
from bus.nats.names import Names
from bus.nats.server import Known, Server, Stored, Stretch, gathered
from bus.nats.stamped import ERASED, is_erased, numbered

__all__ = ["MAX_EVENT", "Journal", "durable_kinds"]

MAX_EVENT = SETTINGS.max_event_bytes
PAGE = 10_000
FEW = 4
"""Types whose pages are read one by one and merged; of more, everything is read and sifted."""
DURABLE = schemas.Lane.DURABLE


class _Entry(NamedTuple):
    subject: str
    raw: bytes


class Journal:
    """What a broker's journal answers, for one connection."""

    def __init__(self, server: Server, names: Names, groups: Groups, letters: Letters) -> None:
        self._server = server
        self._names = names
        self._groups = groups
        self._letters = letters
        self._heads: tuple[int, dict[str, int]] = (-1, {})
        """The stream's last sequence when the heads were looked up, and they."""

    async def answer(self, verb: str, body: bytes, request: bytes, end: float) -> Any:
        """The answer to a request, until `end` (the loop's time); raises a `BusError`."""
        asked = protocol.parse_request(verb.encode(), body)
        receipt = blake2b(verb.encode() + b"\0" + body, digest_size=8).hexdigest()
        match asked:
            case protocol.Append(events=events):
                return await self._append(_entries(self._names, events), end)
            case protocol.Read():
                return await self._read(asked, end)
            case protocol.Lease():
                _check_durable(asked.types)
                return protocol.Deliveries(await self._groups.lease(asked, request, end))
            case protocol.Ack():
                return await self._ack(asked, receipt, end)
            case protocol.Nack():
                await self._groups.nack(asked, receipt, end)
            case protocol.Defer():
                await self._groups.defer(asked, receipt, end)
            case protocol.Extend():
                await self._groups.extend(asked, end)
            case protocol.HeadsAsked():
                return protocol.Heads(await self.heads(end))
            case protocol.Dead():
                return await self._letters.dead(asked, self._groups.readmit, end)
            case protocol.GroupsAsked():
                return protocol.GroupList(await self._groups.standing.every(end))
            case protocol.Drop():
                return protocol.GroupList(await self._groups.standing.drop(asked, end))
            case protocol.Erase(types=types, where=where, upto=upto):
                parts = (self._server, self._names, self._letters)
                return protocol.Erased(await erase(*parts, types, where, upto, end))
            case _:
                raise Refused(f"{verb} is no request")
        return {}

    # appending

    async def _append(self, entries: Sequence[_Entry], end: float) -> protocol.Appended:
        # Sent in this order over one connection, and so stored in this order.
        placed = await asyncio.gather(*(self._place(entry, end) for entry in entries))
        return protocol.Appended(
            [sequence for sequence, _ in placed],
            [position for position, (_, known) in enumerate(placed) if known],
        )

    async def _place(self, entry: _Entry, end: float) -> tuple[int, bool]:
        """The sequence of an event, and whether it was known before."""
        while True:
            try:
                return await self._server.store(entry.subject, entry.raw, end), False
            except Known:
                there = await self._server.last(self._names.journal, entry.subject, end)
            if there is not None:
                return int(there.headers.get(ERASED, there.sequence)), True
            if asyncio.get_running_loop().time() >= end:  # retention took it just now
                raise Unreachable("the journal did not take the event in time")

    async def _ack(self, asked: protocol.Ack, receipt: str, end: float) -> protocol.Appended:
        entries = _entries(self._names, asked.publish)
        return await self._groups.ack(
            asked.leases,
            receipt,
            lambda: self._append(entries, end),
            end,
            publishes=bool(entries),
        )

    # reading

    async def heads(self, end: float) -> dict[str, int]:
        """The last sequence of every durable type that has one."""
        state = await self._server.state(self._names.journal, end)
        last, heads = self._heads
        if last != state.last_seq:
            kinds = durable_kinds()
            found = await asyncio.gather(*(self.head(kind, end) for kind in kinds))
            heads = {kind: head for kind, head in zip(kinds, found, strict=True) if head}
            self._heads = (state.last_seq, heads)
        return dict(heads)

    async def head(self, kind: str, end: float) -> int:
        """The last sequence of a type; 0 where it has none."""
        last = await self._server.last(self._names.journal, self._names.events(kind), end)
        return 0 if last is None else last.sequence

    async def _read(self, asked: protocol.Read, end: float) -> protocol.Page:
        limit = min(asked.limit, PAGE)
        truncated = await is_truncated(self._server, self._names, asked.after, end)
        after = asked.after
        while True:
            messages, whole = await self._stretch(asked.types, after, limit, end)
            kept = [stored for stored in messages if not is_erased(stored)]
            if kept or whole or not messages:
                return protocol.Page(self._numbered(kept, asked.after), truncated)
            after = messages[-1].sequence  # all of it was erased: what follows may not be

    async def _stretch(
        self, types: Sequence[str] | None, after: int, limit: int, end: float
    ) -> tuple[list[Stored], bool]:
        journal, kinds = self._names.journal, list(dict.fromkeys(types or ()))
        if types is not None and len(kinds) <= FEW:
            # What comes while they are read may be in one page, and what came before it in none.
            upto = (await self._server.state(journal, end)).last_seq
            subjects = [self._names.events(kind) for kind in kinds]
            pages: list[Stretch] = await asyncio.gather(
                *(self._server.stretch(journal, s, after, limit, end) for s in subjects)
            )
            messages, whole = gathered(pages, limit)
            return [m for m in messages if m.sequence <= upto], whole
        page, whole = await self._server.stretch(journal, self._names.every, after, limit, end)
        if types is not None and page:
            kept = [m for m in page if self._names.kind(m.subject) in kinds]
            if not kept and not whole:
                return await self._stretch(types, page[-1].sequence, limit, end)
            page = kept
        return page, whole

    def _numbered(self, messages: Sequence[Stored], after: int) -> list[msgspec.Raw]:
        """The events with `previous`, as far as it is known: by what comes before in the page."""
        before: dict[str, int | None] = {}
        found = []
        for stored in messages:
            kind = self._names.kind(stored.subject)
            previous = before.get(kind, 0 if after == 0 else None)
            found.append(msgspec.Raw(numbered(stored, kind, previous)))
            before[kind] = stored.sequence
        return found


def durable_kinds() -> list[str]:
    """Every durable type of the catalogue."""
    return [name for name, kind in schemas.catalogue().items() if kind.lane is DURABLE]


def _entries(names: Names, raws: Sequence[msgspec.Raw]) -> list[_Entry]:
    """Events that the journal may take; raises a `SchemaError`, `Refused`, `TooLarge`."""
    entries = []
    for raw in map(bytes, raws):
        if len(raw) > MAX_EVENT:
            raise TooLarge(f"the event has {len(raw)} bytes, at most {MAX_EVENT} are taken")
        event = schemas.decode(raw)
        check_legible(raw)
        if event.data.lane is not DURABLE:
            raise Refused(f"{event.type} is live: the journal takes durable events only")
        subject = names.event(event.type, event.source, event.id, event.causation_id)
        entries.append(_Entry(subject, raw))
    return entries


def _check_durable(types: Sequence[str]) -> None:
    for name in types:
        if schemas.payload_type(name).lane is not DURABLE:
            raise Refused(f"{name} is live: only durable events can be leased")
