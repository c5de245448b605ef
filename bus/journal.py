"""The journal: durable events in one total order, in SQLite, owned by one thread."""

from __future__ import annotations

import heapq
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import schemas
from bus.errors import BusError
from bus.journal_leases import Leases
from bus.journal_retention import Retention
from bus.journal_rows import insert, marks, stretches
from bus.journal_schema import broken, open_database
from bus.settings import BrokerSettings

__all__ = ["Entry", "Journal", "Stored"]

PAGE_BYTES = 8 * 2**20
MAX_PAGE = 10_000
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
        self.connection = open_database(path)
        self.outbox: list[Stored] = []
        """Appended since `begin`, in order: to be broadcast after `commit`."""
        self.leases = Leases(self)
        self.retention = Retention(self)
        self._heads: dict[str, int] = {}
        self._changed: set[str] = set()
        self._last = 0
        self._fold = False
        self._unfolded = False
        self._stale = False
        self._load()
        self.retention.load()
        self._bytes = self.retention.bytes
        self.leases.resume()

    def _load(self) -> None:
        self._changed.clear()
        self.outbox = []
        self._heads = dict(self.connection.execute("SELECT type, head FROM types"))
        self._last = max(self._heads.values(), default=0)
        self.leases.load()

    # transactions

    def begin(self) -> None:
        """Start a transaction."""
        if self._stale or self.connection.in_transaction:
            self.rollback()  # the one before ended in a way that nobody foresaw
        self.connection.execute("BEGIN")
        self._bytes = self.retention.bytes

    def commit(self) -> None:
        """Make everything since `begin` durable; raises `DiskFull`, `ReadOnly`: then undone."""
        try:
            self.retention.cap()
            if self._changed:
                self.connection.executemany(
                    "INSERT INTO types VALUES (?, ?, 0)"
                    " ON CONFLICT (type) DO UPDATE SET head = excluded.head",
                    [(kind, self._heads[kind]) for kind in self._changed],
                )
                self._changed.clear()
            self.connection.execute("COMMIT")
        except sqlite3.Error as e:
            self.rollback()
            raise broken(e, self.path) from e
        if self._fold:
            self._fold = False
            self._empty_log()

    def _empty_log(self) -> None:
        """Leave nothing of what was erased in the write-ahead log; where it fails, tried later."""
        try:
            (busy, *_) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._unfolded = bool(busy)
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
        """What an SQLite error within a transaction means to a client."""
        return broken(error, self.path)

    # events

    def append(self, entries: Sequence[Entry]) -> list[tuple[int, bool]]:
        """Number and keep events; a pair (sequence, known already) each."""
        keys = [_key(source, name) for _, source, name, _ in entries]
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
            known[key] = sequence = self._last + 1
            stamped = schemas.stamp(raw, sequence=sequence, previous=self._heads.get(kind, 0))
            size = len(stamped)
            seen += (key, sequence, at)
            events += (sequence, kind, size, at, stamped)
            self._last = self._heads[kind] = sequence
            self._changed.add(kind)
            self.retention.grew(size)
            self.outbox.append(Stored(sequence, kind, stamped))
            placed.append((sequence, False))
        insert(self.connection, "seen", 3, seen)
        insert(self.connection, "events", 5, events)
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

    def event(self, sequence: int) -> bytes | None:
        """The event of that number, if it is still kept."""
        row = self.connection.execute(
            "SELECT raw FROM events WHERE sequence = ?", (sequence,)
        ).fetchone()
        return row[0] if row else None

    def read(self, types: Sequence[str] | None, after: int, limit: int) -> tuple[list[bytes], bool]:
        """Events beyond `after`, in order, and whether retention had already removed some.

        A page ends after `limit` events or about 8 MiB; an empty page is the end.
        """
        limit = min(limit, MAX_PAGE)
        page: list[bytes] = []
        size = 0
        for sequence in self.following(types, after, limit):
            raw = self.event(sequence)
            if raw is None:
                continue
            page.append(raw)
            size += len(raw)
            if size >= PAGE_BYTES:
                break
        return page, self._truncated(types, after)

    def following(self, types: Sequence[str] | None, after: int, limit: int) -> list[int]:
        """The next `limit` sequences of some types (None: all) beyond `after`, in order."""
        if types is None:
            rows = self.connection.execute(
                "SELECT sequence FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, limit),
            )
            return [sequence for (sequence,) in rows]
        # One short index scan a type, merged: a rare type costs nothing among many others.
        found: list[int] = []
        for kind in set(types):
            if self.head(kind) > after:
                rows = self.connection.execute(
                    "SELECT sequence FROM events WHERE type = ? AND sequence > ?"
                    " ORDER BY sequence LIMIT ?",
                    (kind, after, limit),
                )
                found += [sequence for (sequence,) in rows]
        return heapq.nsmallest(limit, found)

    def _truncated(self, types: Sequence[str] | None, after: int) -> bool:
        floors = self.connection.execute("SELECT type FROM types WHERE floor > ?", (after,))
        return any(types is None or kind in types for (kind,) in floors)

    def erase(self, types: Sequence[str], where: Mapping[str, str], upto: int | None = None) -> int:
        """Erase events by their data, from the file and its log; how many. Raises `Refused`."""
        self._fold = True  # the write-ahead log holds them too
        return self.retention.erase(types, where, upto)

    def close(self) -> None:
        """Close the file; what was committed stays."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.connection.close()


def _key(source: str, name: str) -> bytes:
    """What duplicates are known by: 128 bits over source and id."""
    return blake2b(f"{len(source)}:{source}{name}".encode(), digest_size=16).digest()
