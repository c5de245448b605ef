"""The journal: durable events in one total order, in SQLite, owned by one thread."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import schemas
from bus.errors import BusError, Damaged, DiskFull
from bus.journal.books import Books, crc_of, key_of
from bus.journal.check import examine, sound
from bus.journal.files import Files, log_kept
from bus.journal.leases import Leases
from bus.journal.reading import following, page
from bus.journal.retention import Retention
from bus.journal.rows import insert, marks, stretches
from bus.journal.schema import broken, no_space, open_database
from bus.settings import BrokerSettings

__all__ = ["Entry", "Journal", "Stored"]

_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A validated event that is to be appended."""

    type: str
    source: str
    id: str
    raw: bytes


class Stored(NamedTuple):
    """An event as the journal keeps it."""

    sequence: int
    type: str
    raw: bytes


class Journal:
    """Events, groups and dead letters. Not thread-safe: every call from the thread that made it.

    Calls that change something stand between `begin` and `commit`; `commit` returns when they
    are on the disk. After `rollback` nothing of them is left, here or in the file.
    """

    def __init__(
        self,
        path: Path | None,
        settings: BrokerSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.settings = settings or BrokerSettings()
        self.clock = clock
        with log_kept(path):
            self._start()

    def _start(self) -> None:
        path = self.path
        self.connection = open_database(path)
        self.files = None if path is None else Files(path)
        self.books = Books(self.connection)
        self.damage: Damaged | None = None
        """What is wrong with the file; from then on nothing is written to it."""
        self.outbox: list[Stored] = []
        """Appended since `begin`, in order: to be broadcast after `commit`."""
        self.leases = Leases(self)
        self.retention = Retention(self)
        self._heads: dict[str, int] = {}
        self._floors: dict[str, int] = {}
        self._kept: dict[str, tuple[int, int]] = {}
        """Head and floor of every type, as the file has them."""
        self._changed: set[str] = set()
        self._changes = 0
        self._fold = False
        self._unfolded = False
        self._stale = False
        try:
            self._open()
        except BaseException as e:
            self.close()
            if isinstance(e, sqlite3.Error):
                raise self.failure(e) from e
            raise

    def _open(self) -> None:
        examine(self.connection, self.path)
        self._load()
        self.retention.load()
        self._bytes = self.retention.bytes
        try:
            self.leases.resume()
        except sqlite3.Error as e:
            if not isinstance(self.failure(e), DiskFull):
                raise
            _log.warning("the disk is full: nothing is journaled until there is room")
        if self.files is not None:
            self.files.tally(self.books)

    def _load(self) -> None:
        self._changed.clear()
        self.outbox = []
        self.books.load()
        rows = self.connection.execute("SELECT type, head, floor FROM types")
        self._kept = {kind: (head, floor) for kind, head, floor in rows}
        self._heads = {kind: head for kind, (head, _) in self._kept.items()}
        self._floors = {kind: floor for kind, (_, floor) in self._kept.items()}
        self.leases.load()

    # transactions

    def begin(self) -> None:
        """Start a transaction."""
        if self._stale or self.connection.in_transaction:
            self.rollback()  # the one before ended in a way that nobody foresaw
        self.connection.execute("BEGIN")
        self._bytes = self.retention.bytes
        self._changes = self.connection.total_changes

    def commit(self) -> bool:
        """Make everything since `begin` durable; whether there was anything.

        Raises `DiskFull`, `ReadOnly`: then undone. Raises `Damaged` where it cannot be told whether
        the file still has it.
        """
        try:
            self.retention.cap()
            self._write_types()
            changed = self.connection.total_changes != self._changes
            if changed:
                self.writable()
                if self.files is not None:
                    self.files.look()
                self.books.write()
            self.connection.execute("COMMIT")
        except (sqlite3.Error, Damaged) as e:
            failure = self.failure(e) if isinstance(e, sqlite3.Error) else e
            if isinstance(failure, Damaged):
                self.damage = failure
            self.rollback()
            raise failure from e
        if changed and self.files is not None:
            try:
                self.files.committed(self.books)
            except Damaged as e:
                self.damage = e
                self._load()
                raise
        if self._fold:
            self._fold = False
            self._empty_log()
        return changed

    def _write_types(self) -> None:
        rows = []
        for kind in self._changed:
            row = self._heads.get(kind, 0), self._floors.get(kind, 0)
            old = self._kept.get(kind)
            self.books.retie(None if old is None else (kind, *old), (kind, *row))
            self._kept[kind] = row
            rows.append((kind, *row))
        if rows:
            self.connection.executemany("INSERT OR REPLACE INTO types VALUES (?, ?, ?)", rows)
            self._changed.clear()

    def writable(self) -> None:
        """Raise `Damaged` where nothing may be acknowledged any more, done before or not."""
        if self.damage is not None:
            raise Damaged(str(self.damage))

    def probe(self) -> None:
        """Write next to nothing, to see whether that is possible again; raises `DiskFull`."""
        if self.path is not None and no_space(self.path):
            raise DiskFull("the journal's disk is full: nothing is journaled until there is room")
        self.connection.execute("UPDATE books SET commits = commits")

    def _empty_log(self) -> None:
        """Leave nothing of what was erased in the write-ahead log; where it fails, tried later."""
        try:
            (busy, *_) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._unfolded = bool(busy)
            if self.files is not None:
                self.files.emptied()
        except sqlite3.Error as e:  # what was committed is committed
            self._unfolded = True
            _log.warning("the journal's log cannot be emptied: %s", e)

    def maintain(self) -> bool:
        """Forget a stretch of what is too old; True if more may be left to forget."""
        self._fold = self._fold or self._unfolded
        return self.retention.maintain()

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        self._stale = True
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._load()
        self.retention.bytes = self._bytes
        self._stale = False

    def failure(self, error: sqlite3.Error) -> BusError:
        """What an SQLite error means to a client; what is damaged stays so."""
        found = broken(error, self.path)
        if isinstance(found, Damaged):
            self.damage = found
        return found

    # events

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, bool]]:
        """Number and keep events; a pair (sequence, known already) each. Raises `Damaged`."""
        self.writable()
        keys = [key_of(source, name) for _, source, name, _ in entries]
        known = self._seen(keys)
        at = self.clock()
        placed = []
        seen: list[Any] = []
        events: list[Any] = []
        for key, (kind, _, _, raw) in zip(keys, entries, strict=True):
            sequence = known.get(key)
            if sequence is not None:
                placed.append((sequence, True))
                continue
            known[key] = sequence = self.books.last + 1
            stamped = schemas.stamp(raw, sequence=sequence, previous=self._heads.get(kind, 0))
            size = len(stamped)
            seen += (key, sequence, at)
            events += (
                sequence,
                kind,
                size,
                at,
                stamped,
                crc_of(self.books.name, sequence, kind, at, stamped),
            )
            self.books.last = self._heads[kind] = sequence
            self.books.events += 1
            self._changed.add(kind)
            self.retention.grew(size)
            self.outbox.append(Stored(sequence, kind, stamped))
            placed.append((sequence, False))
        insert(self.connection, "seen", 3, seen)
        insert(self.connection, "events", 6, events)
        return placed

    def _seen(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The sequences of those that were appended before."""
        found: dict[bytes, int] = {}
        for start, count in stretches(len(keys)):
            query = f"SELECT key, sequence FROM seen WHERE key IN ({marks(count)})"  # noqa: S608
            found.update(self.connection.execute(query, keys[start : start + count]).fetchall())
        return found

    def heads(self) -> dict[str, int]:
        """The last sequence of every type that has one."""
        return dict(self._heads)

    def head(self, kind: str) -> int:
        """The last sequence of a type; 0 where it has none."""
        return self._heads.get(kind, 0)

    def raise_floor(self, kind: str, floor: int) -> None:
        """Events of a type up to this number are forgotten."""
        self._floors[kind] = max(floor, self._floors.get(kind, 0))
        self._changed.add(kind)

    def event(self, sequence: int) -> bytes | None:
        """The event of that number, if it is still kept; raises `Damaged`."""
        found = self.row(sequence)
        return found[1] if found else None

    def row(self, sequence: int) -> tuple[str, bytes] | None:
        """Its type and the event, if it is still kept; raises `Damaged`."""
        row = self.connection.execute(
            "SELECT type, at, raw, crc FROM events WHERE sequence = ?", (sequence,)
        ).fetchone()
        if row is None:
            return None
        kind, at, raw, crc = row
        if not sound(self.books.name, sequence, kind, at, raw, crc, self.books.unsummed):
            self.damage = Damaged(f"event {sequence} is not what was written")
            raise Damaged(str(self.damage))
        return kind, raw

    def read(self, types: Sequence[str] | None, after: int, limit: int) -> tuple[list[bytes], bool]:
        """Events beyond `after`, in order, and whether some of those are forgotten already.

        A page ends after `limit` events or about 8 MiB; an empty page is the end.
        """
        truncated = any(
            floor > after and (types is None or kind in types)
            for kind, floor in self._floors.items()
        )
        return page(self, types, after, limit), truncated

    def following(self, types: Sequence[str] | None, after: int, limit: int) -> list[int]:
        """The next `limit` sequences of some types (None: all) beyond `after`, in order."""
        return following(self, types, after, limit)

    def erase(self, types: Sequence[str], where: Mapping[str, str], upto: int | None = None) -> int:
        """Erase events by their data, from the file and its log; how many. Raises `Refused`."""
        self._fold = True  # the write-ahead log holds them too
        return self.retention.erase(types, where, upto)

    def close(self) -> None:
        """Close the file; what was committed stays."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as e:
            _log.warning("the journal's last transaction cannot be undone: %s", e)
        finally:
            self.connection.close()
            if self.files is not None:
                self.files.close()
