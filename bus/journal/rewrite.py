"""What a salvage gives is written into an empty journal, and told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain

import msgspec

import schemas
from bus.journal.books import crc_of, key_of, tied
from bus.journal.rows import marks
from bus.journal.salvage import Books, Salvage

__all__ = ["Repaired", "Rewriting"]

_STRETCHES = 100
"""Stretches of lost numbers that are told."""


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a damaged journal."""

    kept: int
    """Events that are in the new one."""
    lost: int | None
    """Events that are not; null where nothing says how many there were."""
    missing: list[tuple[int, int]]
    """First and last number of each stretch that is lost; where `lost` is null, what was forgotten
    or erased before is among them."""
    dead: int
    """Dead letters kept."""
    dead_lost: int | None
    """Dead letters that are not; null where nothing says how many there were."""
    positions: bool
    """Whether groups go on where they were; otherwise they get all events kept once more."""
    last: int
    """The last number ever given: new events go on behind it."""
    damaged: str
    """The name of the damaged file, beside the new one."""

    def sentence(self) -> str:
        """For people."""
        numbers = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in self.missing)
        if self.lost == 0:
            lost = "no event is lost"
        elif self.lost is not None:
            there = sum(b - a + 1 for a, b in self.missing) == self.lost
            events = "1 event is" if self.lost == 1 else f"{self.lost} events are"
            lost = f"{events} lost, {'' if there else 'among '}numbers {numbers}"
        elif numbers:
            lost = (
                f"numbers {numbers} are not there, among them what was forgotten or erased before"
            )
        else:
            lost = "no number is missing"
        letters = f"; {self.dead_lost} dead letters are lost" if self.dead_lost else ""
        groups = (
            "every group goes on where it was"
            if self.positions
            else "every group gets all of them once more, as how far each was cannot be trusted"
        )
        return (
            f"{self.kept} events and {self.dead} dead letters were kept; {lost}{letters}; {groups};"
            " new"
            f" events go on behind {self.last}. The damaged file is kept as {self.damaged}."
        )


class Rewriting:
    """From a salvage into an empty journal, in one transaction."""

    def __init__(self, db: sqlite3.Connection, salvage: Salvage) -> None:
        self._db = db
        self._salvage = salvage
        self._name = b""
        self._check = 0
        """Rows of `types` and `cursors`, tied together."""

    def run(self, damaged: str) -> Repaired:
        db, salvage = self._db, self._salvage
        db.execute("BEGIN")
        (self._name,) = db.execute("SELECT name FROM books").fetchone()
        self._events()
        kept, top = db.execute("SELECT count(*), coalesce(max(sequence), 0) FROM events").fetchone()
        last = salvage.last(top)
        missing, lost = self._missing(last, kept)
        self._types(last, missing)
        positions = salvage.trusted and {"cursors", "pending"} <= salvage.whole
        self._groups(last, positions=positions)
        self._insert("finished", 3, salvage.tables["finished"].values())
        dead = self._letters()
        db.execute(
            "UPDATE books SET commits = 1, last = ?, events = ?, dead = ?, tied = ?",
            (last, kept, dead, self._check),
        )
        db.execute("COMMIT")
        return Repaired(
            kept=kept,
            lost=lost,
            missing=missing[:_STRETCHES],
            dead=dead,
            dead_lost=None if salvage.books is None else max(0, salvage.books.dead - dead),
            positions=positions,
            last=last,
            damaged=damaged,
        )

    def _insert(self, table: str, width: int, rows: Iterable[tuple[object, ...]]) -> None:
        self._db.executemany(
            f"INSERT OR IGNORE INTO {table} VALUES ({marks(width)})",  # noqa: S608 (constants)
            rows,
        )

    def _events(self) -> None:
        for sequence, kind, at, raw in self._salvage.events():
            crc = crc_of(self._name, sequence, kind, at, raw)
            self._insert("events", 6, [(sequence, kind, len(raw), at, raw, crc)])
            with suppress(schemas.SchemaError):
                header = schemas.header(raw)
                self._insert("seen", 3, [(key_of(header.source, header.id), sequence, at)])
        self._insert("seen", 3, self._salvage.tables["seen"].values())

    def _missing(self, last: int, kept: int) -> tuple[list[tuple[int, int]], int | None]:
        """Stretches of numbers that are not there, and how many events that are, if that is sure.

        What the index listed and was not found is lost, and all that came after the last commit
        which could be read; where the index is broken, any number may be.
        """
        found = (n for (n,) in self._db.execute("SELECT sequence FROM events ORDER BY sequence"))
        listed, books = self._salvage.listed, self._salvage.books
        gaps: list[tuple[int, int]] = []
        before = 0
        for number in chain(found, [last + 1]):
            if number > before + 1:
                gaps.append((before + 1, number - 1))
            before = number
        if listed is None:
            sure = books is not None and not self._behind(books)
            return gaps, max(0, books.events - kept) if sure and books is not None else None
        end = books.last if books is not None else last
        numbers = [n for a, b in gaps for n in range(a, b + 1) if n in listed or n > end]
        return _stretches(numbers), len(numbers)

    def _behind(self, books: Books) -> bool:
        tally = self._salvage.tally
        return tally is None or tally.commits > books.commits

    def _types(self, last: int, missing: list[tuple[int, int]]) -> None:
        rows = {kind: (head, floor) for kind, head, floor in self._salvage.tables["types"].values()}
        found = dict(self._db.execute("SELECT type, max(sequence) FROM events GROUP BY type"))
        floor = missing[-1][1] if missing else 0
        for kind in sorted({*rows, *found}):
            head, forgotten = rows.get(kind, (0, 0))
            head = max(head if head <= last else 0, found.get(kind, 0))
            row = kind, head, max(forgotten if forgotten <= last else 0, floor)
            self._check ^= tied(*row)
            self._insert("types", 3, [row])

    def _groups(self, last: int, *, positions: bool) -> None:
        for group, kind, position in self._salvage.tables["cursors"].values():
            row = group, kind, min(position, last) if positions else 0
            self._check ^= tied(*row)
            self._insert("cursors", 3, [row])
        if positions:
            rows = self._salvage.tables["pending"].values()
            self._insert("pending", 8, rows)
            self._db.execute(
                "DELETE FROM pending WHERE sequence NOT IN (SELECT sequence FROM events)"
            )
            self._db.execute(
                "UPDATE pending SET type ="
                " (SELECT type FROM events e WHERE e.sequence = pending.sequence)"
            )

    def _letters(self) -> int:
        for number, group, reason, event in self._salvage.letters():
            crc = crc_of(self._name, *event)
            row = number, group, event.sequence, event.type, reason, event.at, event.raw, crc
            self._insert("dead", 8, [row])
        return int(self._db.execute("SELECT count(*) FROM dead").fetchone()[0])


def _stretches(numbers: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
