"""Erasing events by what their data says, from the journal and the dead letters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from bus.errors import Refused
from bus.journal.says import says
from bus.nats.letters import Letters
from bus.nats.names import OWN, Names
from bus.nats.server import Known, Server, Stored
from bus.nats.stamped import ERASED, is_erased

__all__ = ["erase", "is_truncated"]

PAGE = 500
_FRONT = f"{OWN}erased"
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


async def erase(
    server: Server,
    names: Names,
    letters: Letters,
    types: Sequence[str],
    where: Mapping[str, str],
    upto: int | None,
    end: float,
) -> int:
    """How many events of `types` were erased whose data has all values of `where`.

    None beyond the sequence `upto`. Raises `Refused`.
    """
    for field in where:
        if not _FIELD.fullmatch(field):
            raise Refused(f"{field!r} is no field name of an event's data")
    erased = 0
    first = (await server.state(names.journal, end)).first_seq
    for kind in dict.fromkeys(types):
        erased += await _erase_kind(server, names, kind, where, upto, end)
    await _note_front(server, names, first, end)
    for letter in await letters.every(end):
        named = letter.kind in types and (upto is None or letter.sequence <= upto)
        if named and says(letter.body, where):
            await letters.drop(letter, end)
    return erased


async def _erase_kind(
    server: Server,
    names: Names,
    kind: str,
    where: Mapping[str, str],
    upto: int | None,
    end: float,
) -> int:
    # What is stored from now on is not looked at: the empty messages are among it.
    last = await server.last(names.journal, names.events(kind), end)
    limit = min(last.sequence if last else 0, upto if upto is not None else 2**63)
    erased, after, whole = 0, 0, last is None
    while not whole and after < limit:
        page, whole = await server.stretch(names.journal, names.events(kind), after, PAGE, end)
        for stored in page:
            after = stored.sequence
            if after <= limit and not is_erased(stored) and says(stored.body, where):
                await _erase_one(server, names, stored, end)
                erased += 1
        whole = whole or not page
    return erased


async def _erase_one(server: Server, names: Names, stored: Stored, end: float) -> None:
    """Delete it, and keep its subject taken; a resend that comes between is deleted, too."""
    await server.delete(names.journal, stored.sequence, end)
    while True:
        try:
            headers = {ERASED: str(stored.sequence)}
            await server.store(stored.subject, b"", end, headers=headers)
            return
        except Known:
            there = await server.last(names.journal, stored.subject, end)
            if there is not None and is_erased(there):
                return
            if there is not None:
                await server.delete(names.journal, there.sequence, end)


class _Front(msgspec.Struct):
    """The stretch at the stream's front that is missing because it was erased."""

    first: int = 0
    last: int = -1


async def _front(server: Server, names: Names, end: float) -> _Front:
    stored = await server.last(names.groups, names.group(_FRONT), end)
    return _Front() if stored is None else msgspec.json.decode(stored.body, type=_Front)


async def _note_front(server: Server, names: Names, before: int, end: float) -> None:
    """Where the first events of all were erased, they are not missed for it."""
    now = (await server.state(names.journal, end)).first_seq
    if now > max(before, 1):
        known = await _front(server, names, end)
        first = known.first if known.first <= before <= known.last + 1 else before
        body = msgspec.json.encode(_Front(first, now - 1))
        await server.store(names.group(_FRONT), body, end)


async def is_truncated(server: Server, names: Names, after: int, end: float) -> bool:
    """Whether events beyond a sequence are gone that were not erased."""
    first = (await server.state(names.journal, end)).first_seq
    if first <= after + 1:
        return False
    erased = await _front(server, names, end)
    return not (erased.first <= after + 1 and first - 1 <= erased.last)
