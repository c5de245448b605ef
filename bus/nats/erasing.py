"""Erasing events by what their data says, from the journal and the dead letters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from bus.errors import Refused
from bus.nats.letters import Letters
from bus.nats.names import Names
from bus.nats.server import Known, Server, Stored
from bus.nats.stamped import ERASED, is_erased

__all__ = ["erase"]

PAGE = 500
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
    for kind in dict.fromkeys(types):
        erased += await _erase_kind(server, names, kind, where, upto, end)
    for letter in await letters.every(end):
        named = letter.kind in types and (upto is None or letter.sequence <= upto)
        if named and _says(letter.body, where):
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
            if after <= limit and not is_erased(stored) and _says(stored.body, where):
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


class _Told(msgspec.Struct):
    data: msgspec.Raw


def _says(raw: bytes, where: Mapping[str, str]) -> bool:
    """Whether an event's data has all these values, to those who consume it."""
    if b"\\" not in raw and not all(value.encode() in raw for value in where.values()):
        return False
    try:
        data = msgspec.json.decode(
            msgspec.json.decode(raw, type=_Told).data, type=dict[str, msgspec.Raw]
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return all(field in data and _text(data[field]) == value for field, value in where.items())


def _text(value: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(value, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
