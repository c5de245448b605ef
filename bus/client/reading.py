"""What a bus asks the journal that is no lease: pages, heads, groups, dead letters, erasure."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

import schemas
from bus import protocol
from bus.contract import Bus, DeadLetter, GroupState, JournalPage, Kinds
from schemas import Event, Payload

__all__ = ["JournalReader", "kinds_of"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class JournalReader(Bus):
    """The contract's questions to the journal, by way of `call`."""

    refused: int
    """What could not be read, here or by the broker."""

    @abstractmethod
    async def call(self, verb: str, request: protocol.Request) -> bytes:
        """Ask the journal; raises `Refused` and its kinds, `Unreachable`, `Closed`."""

    async def read(
        self, kinds: Kinds | None = None, *, after: int = 0, limit: int = 1000
    ) -> JournalPage:
        types = None if kinds is None else [kind.type for kind in kinds_of(kinds)]
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

    async def groups(self) -> tuple[GroupState, ...]:
        answer = await self.call("groups", protocol.GroupsAsked())
        return tuple(_read(answer, protocol.GroupList).groups)

    async def drop_group(self, name: str, *, force: bool = False) -> GroupState | None:
        answer = await self.call("drop", protocol.Drop(group=name, force=force))
        return next(iter(_read(answer, protocol.GroupList).groups), None)

    async def erase(
        self, kinds: Kinds, where: Mapping[str, str], *, upto: int | None = None
    ) -> int:
        types = [kind.type for kind in kinds_of(kinds)]
        answer = await self.call("erase", protocol.Erase(types=types, where=dict(where), upto=upto))
        return _read(answer, protocol.Erased).erased


class _Numbered(msgspec.Struct):
    sequence: int = 0
    type: str = ""


def _read(answer: bytes, kind: type[_T]) -> _T:
    return msgspec.json.decode(answer, type=kind)


def kinds_of(kinds: Kinds) -> tuple[type[Payload], ...]:
    """One type or several, as a tuple; raises `ValueError` where there is none."""
    chosen = (kinds,) if isinstance(kinds, type) else tuple(kinds)
    if not chosen:
        raise ValueError("no event type was named")
    return chosen
