"""Dead letters: a stream of their own, one message each; its sequence is the letter's id."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from bus import protocol
from bus.nats.group import REASON, SETTINGS, Row
from bus.nats.names import Names
from bus.nats.server import Known, Server, Stored
from bus.nats.stamped import numbered

__all__ = ["Letter", "Letters"]

GROUP, SEQUENCE, KIND = "Consonance-Group", "Consonance-Sequence", "Consonance-Type"
WHY, SUBJECT = "Consonance-Reason", "Consonance-Subject"
PAGE = 500
_NULL = msgspec.Raw(b"null")


class Letter(NamedTuple):
    """One dead letter; `subject` is that of its event in the journal."""

    id: int
    group: str
    reason: str
    sequence: int
    kind: str
    subject: str
    body: bytes


class Letters:
    """The dead letters of all groups."""

    def __init__(self, server: Server, names: Names) -> None:
        self._server = server
        self._names = names

    @staticmethod
    def too_many(failed: int) -> bool:
        """Whether an event that failed so often is delivered no more."""
        return failed >= SETTINGS.max_deliveries

    async def write(self, group: str, row: Row, reason: str, event: Stored, end: float) -> None:
        """Keep an event's dead letter; once, however often it is said."""
        headers = {
            GROUP: quote(group),
            SEQUENCE: str(row.sequence),
            KIND: row.kind,
            WHY: quote(reason[:REASON]),
            SUBJECT: event.subject,
        }
        subject = self._names.letter(group, row.sequence)
        with contextlib.suppress(Known):
            await self._server.store(subject, event.body, end, headers=headers)

    async def every(self, end: float) -> list[Letter]:
        """All of them, the oldest first."""
        found: list[Letter] = []
        after, whole = 0, False
        while not whole:
            page, whole = await self._server.stretch(
                self._names.dead, self._names.every_letter, after, PAGE, end
            )
            found += map(_letter, page)
            after = page[-1].sequence if page else after
            whole = whole or not page
        return found

    async def dead(
        self,
        asked: protocol.Dead,
        readmit: Callable[[str, int, str, float], Awaitable[None]],
        end: float,
    ) -> protocol.DeadList:
        """List, retry or drop; those concerned."""
        chosen = [
            letter
            for letter in await self.every(end)
            if asked.group in (None, letter.group) and (asked.ids is None or letter.id in asked.ids)
        ]
        for letter in chosen if asked.action != "list" else ():
            if asked.action == "retry":
                sequence = await self._journaled(letter, end)
                await readmit(letter.group, sequence, letter.kind, end)
            await self.drop(letter, end)
        return protocol.DeadList([_entry(letter) for letter in chosen])

    async def drop(self, letter: Letter, end: float) -> None:
        """Forget one, its bytes too."""
        await self._server.delete(self._names.dead, letter.id, end)

    async def _journaled(self, letter: Letter, end: float) -> int:
        """The sequence of its event, which is journaled again where retention took it."""
        journal = self._names.journal
        if await self._server.get(journal, end, seq=letter.sequence) is not None:
            return letter.sequence
        try:
            return await self._server.store(letter.subject, letter.body, end)
        except Known:
            stored = await self._server.last(journal, letter.subject, end)
            return letter.sequence if stored is None else stored.sequence


def _letter(stored: Stored) -> Letter:
    headers = stored.headers
    return Letter(
        stored.sequence,
        unquote(headers.get(GROUP, "")),
        unquote(headers.get(WHY, "")),
        int(headers.get(SEQUENCE, 0)),
        headers.get(KIND, ""),
        headers.get(SUBJECT, ""),
        stored.body,
    )


def _entry(letter: Letter) -> protocol.DeadEntry:
    try:
        msgspec.json.decode(letter.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return protocol.DeadEntry(letter.id, letter.group, letter.reason, _NULL, letter.body)
    stored = Stored(letter.sequence, letter.subject, letter.body, {})
    raw = msgspec.Raw(numbered(stored, letter.kind, None))
    return protocol.DeadEntry(letter.id, letter.group, letter.reason, raw)
