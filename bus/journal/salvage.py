"""What can be read of a damaged journal: events page by page, its small tables by SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from bus.journal.books import Tallied, read_tally, tied
from bus.journal.check import sound
from bus.journal.pages import PAGE, Image
from bus.journal.schema import UNREADABLE, template

__all__ = ["Books", "Event", "Letter", "Salvage"]

_SANE = 10_000_000
"""A number that lies farther beyond every event found is no number of this journal."""
_NUMBER = int, float
_TABLES: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "types": ("type, head, floor", "type", (str, int, int)),
    "cursors": ("grp, type, position", "grp, type", (str, str, int)),
    "seen": ("key, sequence, at", "key", (bytes, int, _NUMBER)),
    "pending": (
        "grp, sequence, type, attempt, failed, lapsed, due, lease",
        "grp, sequence",
        (str, int, str, int, int, int, _NUMBER, (str, type(None))),
    ),
    "finished": ("lease, receipt, at", "lease", (str, bytes, _NUMBER)),
}
"""Columns, those of the key, and what each column holds."""


class Event(NamedTuple):
    """A row that is what was written."""

    sequence: int
    type: str
    at: float
    raw: bytes


class Letter(NamedTuple):
    """A dead letter that is what was written."""

    id: int
    group: str
    reason: str
    event: Event


class Books(NamedTuple):
    """The row of the table `books`, as far as it is read here."""

    name: bytes
    commits: int
    last: int
    events: int
    dead: int
    tied: int
    unsummed: int


class Salvage:
    """A damaged journal; it is only read. `work` is a file that may be written meanwhile."""

    def __init__(self, path: Path, work: Path) -> None:
        self._image = Image(path)
        self._work = work
        try:
            self.tally: Tallied | None = read_tally(path)
        except ValueError:
            self.tally = None
        self.tables: dict[str, dict[Any, tuple[Any, ...]]] = {name: {} for name in _TABLES}
        """Rows by their keys."""
        self.whole: set[str] = set()
        """Tables of which every row was read."""
        self.listed: dict[int, str] | None = None
        """Types of all events that there should be, by their numbers; None: it cannot be known."""
        self.books: Books | None = None
        self._old = False
        """Of a version that kept no books."""
        self._read_tables()
        self.trusted = self._agree()
        """Whether how far types and groups are is what was written."""
        self.other = self.trusted and self._is_another(self.books, self.tally)
        """Whether it is another journal than the one that events were acknowledged from."""

    def close(self) -> None:
        """Close the file, remove what was made."""
        self._image.close()
        for end in ("", "-journal", "-wal", "-shm"):
            self._work.with_name(self._work.name + end).unlink(missing_ok=True)

    # events

    def events(self) -> Iterator[Event]:
        """Every event that is there and what was written; some twice."""
        beyond = self.books.last if self.books is not None else 0
        for number, row in self._image.rows():
            found = self._event(number, row)
            if found is None:
                continue
            # What the index does not list was forgotten or erased, and lay about in old pages.
            if self.listed is None or number in self.listed or number > beyond:
                yield found

    def _event(self, number: int, row: list[Any]) -> Event | None:
        match row:
            case [None, str(kind), int(size), int() | float() as at, bytes(raw), *more] if (
                len(raw) == size and len(more) <= 1
            ):
                if self._is_sound(number, kind, float(at), raw, more[0] if more else None):
                    return Event(number, kind, float(at), raw)
        return None

    def letters(self) -> Iterator[Letter]:
        """Every dead letter that is there and what was written; some twice."""
        for number, row in self._image.rows():
            match row:
                case [
                    None, str(group), int(sequence), str(kind), str(reason),
                    int() | float() as at, bytes(raw), *more,
                ] if len(more) <= 1:  # fmt: skip
                    crc = more[0] if more else None
                    if self._is_sound(sequence, kind, float(at), raw, crc):
                        yield Letter(number, group, reason, Event(sequence, kind, float(at), raw))

    def _is_sound(self, number: int, kind: str, at: float, raw: bytes, crc: int | None) -> bool:
        name = self.tally.name if self.tally is not None else None
        if name is None and self.books is not None:
            name = self.books.name
        if name is None:  # no sum can be made: the event says its number itself
            name, crc = b"", None
        unsummed = _SANE if self.books is None or crc is None else self.books.unsummed
        return sound(name, number, kind, at, raw, crc, unsummed)

    # the small tables

    def last(self, kept: int) -> int:
        """The highest number that was ever given; `kept` is that of the last event found."""
        told = [self.tally.last] if self.tally is not None else []
        if self.books is not None:
            told.append(self.books.last)
        told += [head for _, head, _ in self.tables["types"].values()]
        told += [sequence for _, sequence, _ in self.tables["seen"].values()]
        return max([kept, *(number for number in told if number <= kept + _SANE)])

    def _read_tables(self) -> None:
        own = self._image.page(1)
        for first in (own, *template()):
            self._write_image(first)
            try:
                with closing(sqlite3.connect(self._work, isolation_level=None)) as db:
                    db.execute("PRAGMA writable_schema = ON")
                    for name in _TABLES:
                        db.execute(f"SELECT 1 FROM {name} LIMIT 0")  # noqa: S608 (constants)
                    self._read(db)
                return
            except UNREADABLE:  # another first page is tried
                continue

    def _write_image(self, first: bytes) -> None:
        """All pages in one file, without a log; `first` is its first page."""
        page = bytearray(first)
        page[18:20] = b"\1\1"
        page[28:32] = self._image.pages.to_bytes(4)
        page[32:40] = bytes(8)
        page[92:96] = page[24:28]
        with self._work.open("wb") as file:
            file.write(page)
            for number in range(2, self._image.pages + 1):
                file.write(self._image.page(number).ljust(PAGE, b"\0"))

    def _read(self, db: sqlite3.Connection) -> None:
        for name in _TABLES:
            self._read_table(db, name)
        listed: dict[int, str] = {}
        query = "SELECT type, sequence FROM events INDEXED BY events_by_type WHERE type > ''"
        if _gathered(db, query, lambda row: listed.update({row[1]: row[0]})):
            self.listed = listed
        (version,) = db.execute("PRAGMA user_version").fetchone()
        self._old = version == 1
        with suppress(*UNREADABLE):
            query = "SELECT name, commits, last, events, dead, tied, unsummed FROM books"
            for name, *numbers in db.execute(query):
                if isinstance(name, bytes) and all(isinstance(one, int) for one in numbers):
                    self.books = Books(name, *numbers)
        if not self._old and (self.books is None or len(listed) != self.books.events):
            self.listed = None

    def _read_table(self, db: sqlite3.Connection, name: str) -> None:
        """From the front and, where that comes upon a broken page, from the end."""
        columns, key, kinds = _TABLES[name]
        width = key.count(",") + 1
        found = self.tables[name]

        def take(row: tuple[Any, ...]) -> None:
            if all(map(isinstance, row, kinds)):
                found[row[:width]] = row

        for order in ("ASC", "DESC"):
            keys = ", ".join(f"{part} {order}" for part in key.split(", "))
            query = f"SELECT {columns} FROM {name} ORDER BY {keys}"  # noqa: S608 (constants)
            if _gathered(db, query, take):
                # The indexes say most of it once more: what they contradict is not trusted.
                if _is_sound(db, name):
                    self.whole.add(name)
                return

    @staticmethod
    def _is_another(books: Books | None, tally: Tallied | None) -> bool:
        return books is not None and tally is not None and books.name != tally.name

    def _agree(self) -> bool:
        if self.books is None:
            return self._old and {"types", "cursors"} <= self.whole
        check = 0
        for name in ("types", "cursors"):
            for row in self.tables[name].values():
                check ^= tied(*row)
        return check == self.books.tied


def _is_sound(db: sqlite3.Connection, name: str) -> bool:
    with suppress(*UNREADABLE):
        return db.execute(f"PRAGMA integrity_check({name})").fetchall() == [("ok",)]
    return False


def _gathered(db: sqlite3.Connection, query: str, take: Any) -> bool:
    """Take row after row; False where a broken page ended it."""
    try:
        for row in db.execute(query):
            take(row)
    except UNREADABLE:
        return False
    return True
