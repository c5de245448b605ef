"""What a request of the journal's protocol does to the journal, run in the journal's thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec

import schemas
from bus import protocol
from bus.errors import Refused
from bus.journal import groups
from bus.journal.journal import Entry, Journal

__all__ = ["Operation", "ack", "append", "append_ingress", "of", "of_groups"]

NULL = msgspec.Raw(b"null")
Operation = Callable[[Journal], Any]
"""Returns what the asker is answered, or raises a `BusError` and has changed nothing."""


def append(entries: Sequence[Entry]) -> Operation:
    """Journal them, all or none."""
    return partial(_append, entries)


def append_ingress(entry: Entry) -> Operation:
    """Journal one; None if it is new, the stored event where it was known before."""
    return partial(_append_ingress, entry)


def ack(leases: Sequence[str], publish: Sequence[Entry], receipt: bytes) -> Operation:
    """End leases and journal what follows from them, in one transaction."""
    return partial(_ack, leases, publish, receipt)


def of_groups(asked: protocol.GroupsAsked | protocol.Drop, waiting: Collection[str]) -> Operation:
    """Tell of the groups, or drop one; `waiting`: those as which somebody waits for a lease."""
    if isinstance(asked, protocol.Drop):
        return partial(_drop, asked, waiting)
    return lambda journal: protocol.GroupList(groups.states(journal, waiting))


def of(asked: protocol.Request, receipt: bytes, numbered: Collection[str] | None) -> Operation:
    """What any other request does; raises `Refused`.

    `receipt`: the same request, sent again, has the same. `numbered`: types whose last number the
    asker may know; None for all.
    """
    match asked:
        case protocol.Read(types=types, after=after, limit=limit):
            return partial(_read, types, after, limit)
        case protocol.Nack():
            return partial(_nack, asked, receipt)
        case protocol.Defer():
            return partial(_defer, asked, receipt)
        case protocol.Extend():
            return partial(_extend, asked)
        case protocol.HeadsAsked():
            return partial(_heads, numbered)
        case protocol.Dead():
            return partial(_dead, asked)
        case protocol.Erase(types=types, where=where, upto=upto):
            return lambda journal: protocol.Erased(journal.erase(types, where, upto))
    raise Refused(f"{type(asked).__name__} is no request")


def _appended(placed: Sequence[tuple[int, bool]]) -> protocol.Appended:
    return protocol.Appended(
        [sequence for sequence, _ in placed],
        [position for position, (_, known) in enumerate(placed) if known],
    )


def _append(entries: Sequence[Entry], journal: Journal) -> protocol.Appended:
    return _appended(journal.append(entries))


def _append_ingress(entry: Entry, journal: Journal) -> bytes | None:
    """None if it is new; the stored event where it was known before."""
    ((sequence, known),) = journal.append([entry])
    if not known:
        return None
    stored = journal.event(sequence)
    return stored or schemas.stamp(entry.raw, sequence=sequence, previous=0)


def _ack(
    leases: Sequence[str], publish: Sequence[Entry], receipt: bytes, journal: Journal
) -> protocol.Appended:
    return _appended(journal.leases.ack(leases, publish, receipt))


def _heads(numbered: Collection[str] | None, journal: Journal) -> protocol.Heads:
    heads = journal.heads()
    if numbered is not None:
        heads = {kind: head for kind, head in heads.items() if kind in numbered}
    return protocol.Heads(heads)


def _drop(asked: protocol.Drop, waiting: Collection[str], journal: Journal) -> protocol.GroupList:
    return protocol.GroupList(groups.drop(journal, asked.group, waiting, force=asked.force))


def _read(types: Sequence[str] | None, after: int, limit: int, journal: Journal) -> protocol.Page:
    raws, truncated = journal.read(types, after, limit)
    return protocol.Page([msgspec.Raw(raw) for raw in raws], truncated)


def _nack(asked: protocol.Nack, receipt: bytes, journal: Journal) -> dict[str, str]:
    journal.leases.nack(asked.lease, asked.delay_ms / 1000, asked.reason, asked.dead, receipt)
    return {}


def _defer(asked: protocol.Defer, receipt: bytes, journal: Journal) -> dict[str, str]:
    until = asked.until
    if until is not None and until.tzinfo is None:
        raise Refused("until needs a time zone: 2030-01-01T00:00:00Z")
    limit = datetime.now(UTC) + timedelta(days=366)
    journal.leases.defer(asked.lease, min(until, limit).timestamp() if until else 0.0, receipt)
    return {}


def _extend(asked: protocol.Extend, journal: Journal) -> dict[str, str]:
    journal.leases.extend(asked.lease, asked.visibility_ms / 1000)
    return {}


def _dead(asked: protocol.Dead, journal: Journal) -> protocol.DeadList:
    entries = []
    for row in journal.leases.dead(asked.action, asked.group, asked.ids):
        try:
            msgspec.json.decode(row.raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            entries.append(protocol.DeadEntry(row.id, row.group, row.reason, NULL, row.raw))
        else:
            raw = msgspec.Raw(row.raw)
            entries.append(protocol.DeadEntry(row.id, row.group, row.reason, raw))
    return protocol.DeadList(entries)
