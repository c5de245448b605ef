"""Whether a journal is what was written to it: its trees, rows, sums and books, and its tally."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import schemas
from bus.errors import Damaged
from bus.journal.books import crc_of, read_tally, tied
from bus.journal.schema import UNREADABLE

__all__ = ["examine", "faults", "sound"]

_SHOWN = 3
"""Faults that an error names; a check tells more."""


def examine(db: sqlite3.Connection, path: Path | None) -> None:
    """Read all of a journal, some 5 s for a GiB; raises `Damaged`."""
    found = list(islice(faults(db, path), _SHOWN))
    if found:
        raise Damaged("; ".join(found))


def faults(db: sqlite3.Connection, path: Path | None) -> Iterator[str]:
    """What is wrong with a journal of this version, a sentence each; nothing if it is sound."""
    try:
        yield from _faults(db, path)
    except UNREADABLE as e:
        yield str(e) if isinstance(e, sqlite3.DatabaseError) else "its words are damaged"


def _faults(db: sqlite3.Connection, path: Path | None) -> Iterator[str]:
    torn = [line for (line,) in db.execute("PRAGMA integrity_check(20)") if line != "ok"]
    if torn:
        yield from (" ".join(line.split()) for line in torn)
        return
    books = db.execute(
        "SELECT name, commits, last, events, dead, tied, unsummed FROM books"
    ).fetchall()
    if len(books) != 1:
        yield "its books are gone"
        return
    ((name, commits, last, events, dead, check, unsummed),) = books
    count = 0
    for sequence, kind, size, at, raw, crc in db.execute(
        "SELECT sequence, type, size, at, raw, crc FROM events"
    ):
        count += 1
        if size != len(raw) or not sound(name, sequence, kind, at, raw, crc, unsummed):
            yield f"event {sequence} is not what was written"
        elif sequence > last:
            yield f"event {sequence} is beyond the last one, {last}"
    if count != events:
        yield f"it holds {count} events, and should hold {events}"
    count = 0
    for row, kind, sequence, at, raw, crc in db.execute(
        "SELECT id, type, sequence, at, raw, crc FROM dead"
    ):
        count += 1
        if crc is not None and crc != crc_of(name, sequence, kind, at, raw):
            yield f"dead letter {row} is not what was written"
    if count != dead:
        yield f"it holds {count} dead letters, and should hold {dead}"
    (strange,) = db.execute(
        "SELECT count(*) FROM pending p JOIN events e USING (sequence) WHERE p.type IS NOT e.type"
    ).fetchone()
    if strange:
        yield f"{strange} of the events that groups have in hand are of another type"
    found = 0
    for row in (
        *db.execute("SELECT type, head, floor FROM types"),
        *db.execute("SELECT grp, type, position FROM cursors"),
    ):
        found ^= tied(*row)
    if found != check:
        yield "how far types and groups are does not agree with its books"
    if path is not None:
        yield from _against_tally(path, name, commits)


def _against_tally(path: Path, name: bytes, commits: int) -> Iterator[str]:
    try:
        tally = read_tally(path)
    except ValueError:  # it is written anew with the next commit; it only ever asks for more
        return
    if tally is None:
        return
    if tally.name != name:
        yield "it is another journal than the one that events were acknowledged from"
    elif tally.commits > commits:
        lost = tally.commits - commits
        yield f"the last {lost} commits that were acknowledged are not in it"


def sound(
    name: bytes, sequence: int, kind: str, at: float, raw: bytes, crc: int | None, unsummed: int
) -> bool:
    """Whether an event is what was written; one of an older version says only its number."""
    if crc is not None:
        return crc == crc_of(name, sequence, kind, at, raw)
    if sequence > unsummed:
        return False
    try:
        return schemas.header(raw).sequence == sequence
    except schemas.SchemaError:
        return False
