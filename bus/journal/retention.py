"""What the journal forgets: by age, by bytes, and what people ask to be erased."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bus.errors import Refused
from bus.journal.leases import RECEIPT_SECONDS
from bus.journal.says import says

if TYPE_CHECKING:
    from bus.journal.journal import Journal

__all__ = ["Retention"]

DAY = 86_400.0
CHUNK = 500
ROOM = 0.95
"""At the byte cap so much of it stays, so that not every append has to make room again."""

_LAST = 2**63 - 1
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_log = logging.getLogger(__name__)

_ACKNOWLEDGED = """
    NOT EXISTS (SELECT 1 FROM pending p WHERE p.sequence = e.sequence)
    AND NOT EXISTS (SELECT 1 FROM cursors c WHERE c.type = e.type AND c.position < e.sequence)
"""


class Retention:
    """The journal's memory and its limits; every change stands in the journal's transaction."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._db = journal.connection
        self.bytes = 0
        """Bytes of the events kept."""
        self.evicted = 0
        """Events that the byte cap took from a group which had not acknowledged them."""

    def load(self) -> None:
        """Count what the file holds."""
        (self.bytes,) = self._db.execute("SELECT coalesce(sum(size), 0) FROM events").fetchone()

    def grew(self, size: int) -> None:
        """So many bytes were added."""
        self.bytes += size

    def backlog(self) -> int:
        """Bytes that some declared group has yet to acknowledge: what the cap would lose."""
        positions: dict[str, int] = {}
        for (_, kind), position in self._journal.leases.cursors().items():
            positions[kind] = min(position, positions.get(kind, position))
        query = "SELECT coalesce(sum(size), 0) FROM events WHERE type = ? AND sequence > ?"
        waiting = sum(
            int(self._db.execute(query, (kind, position)).fetchone()[0])
            for kind, position in positions.items()
        )
        (pending,) = self._db.execute(
            "SELECT coalesce(sum(size), 0) FROM events"
            " WHERE sequence IN (SELECT sequence FROM pending)"
        ).fetchone()
        return waiting + int(pending)

    def cap(self) -> None:
        """Hold the byte cap: the oldest acknowledged events go first, then the oldest at all."""
        limit = self._journal.settings.retention_bytes
        if self.bytes <= limit:
            return
        target = int(limit * ROOM)
        for condition in (_ACKNOWLEDGED, "TRUE"):
            while self.bytes > target:
                rows = self._db.execute(
                    f"SELECT e.sequence, e.type, e.size FROM events e WHERE {condition}"  # noqa: S608 (constants)
                    " ORDER BY e.sequence LIMIT ?",
                    (CHUNK,),
                ).fetchall()
                chosen, left = [], self.bytes
                for row in rows:
                    if left <= target:
                        break
                    chosen.append(row)
                    left -= row[2]
                if not chosen:
                    break
                self._remove(chosen)
                if condition == "TRUE":
                    self.evicted += len(chosen)
                    _log.error(
                        "the journal reached its %d bytes: %d events that a group had not"
                        " acknowledged were removed",
                        limit,
                        len(chosen),
                    )

    def maintain(self) -> bool:
        """Forget a stretch of what is too old; True if more may be left to forget."""
        settings, now = self._journal.settings, self._journal.clock()
        age = settings.retention_days * DAY
        rows = self._db.execute(
            f"SELECT e.sequence, e.type, e.size FROM events e WHERE e.at < ? AND {_ACKNOWLEDGED}"  # noqa: S608 (constants)
            " ORDER BY e.sequence LIMIT ?",
            (now - age, CHUNK),
        ).fetchall()
        self._remove(rows)
        removed = len(rows)
        for table, limit in (("seen", now - age - DAY), ("finished", now - RECEIPT_SECONDS)):
            key = "key" if table == "seen" else "lease"
            removed = max(
                removed,
                self._db.execute(
                    f"DELETE FROM {table} WHERE {key} IN"  # noqa: S608 (constants)
                    f" (SELECT {key} FROM {table} WHERE at < ? LIMIT ?)",
                    (limit, CHUNK),
                ).rowcount,
            )
        self._cap_dead()
        return removed >= CHUNK

    def _cap_dead(self) -> None:
        """Dead letters stay until they are retried or dropped, within a tenth of the cap."""
        limit = self._journal.settings.retention_bytes // 10
        (size,) = self._db.execute("SELECT coalesce(sum(length(raw)), 0) FROM dead").fetchone()
        while size > limit:
            name, length = self._db.execute(
                "SELECT id, length(raw) FROM dead ORDER BY id LIMIT 1"
            ).fetchone()
            self._db.execute("DELETE FROM dead WHERE id = ?", (name,))
            self._journal.books.dead -= 1
            size -= length
            _log.error("dead letters exceed %d bytes: the oldest was dropped", limit)

    def _remove(self, rows: Sequence[tuple[int, str, int]]) -> None:
        floors: dict[str, int] = {}
        for sequence, kind, size in rows:
            self._db.execute("DELETE FROM events WHERE sequence = ?", (sequence,))
            # A leased one stays: its consumer may still end it, with what follows from it.
            self._db.execute(
                "DELETE FROM pending WHERE sequence = ? AND lease IS NULL", (sequence,)
            )
            floors[kind] = sequence
            self.bytes -= size
        self._journal.books.events -= len(rows)
        for kind, floor in floors.items():
            self._journal.raise_floor(kind, floor)

    def erase(self, types: Sequence[str], where: Mapping[str, str], upto: int | None = None) -> int:
        """Erase events and dead letters of `types` whose data has all values of `where`.

        None with a sequence beyond `upto`. Their ids stay known, so that a late resend does not
        bring them back. Raises `Refused`.
        """
        for field in where:
            if not _FIELD.fullmatch(field):
                raise Refused(f"{field!r} is no field name of an event's data")
        chosen = f"type IN ({', '.join('?' * len(types))}) AND sequence <= ?"
        limits = (*types, _LAST if upto is None else upto)
        self._db.execute("PRAGMA secure_delete = ON")
        try:
            query = f"SELECT sequence, size, raw FROM events WHERE {chosen}"  # noqa: S608 (question marks)
            rows = [row[:2] for row in self._db.execute(query, limits) if says(row[2], where)]
            for sequence, size in rows:
                self._db.execute("DELETE FROM events WHERE sequence = ?", (sequence,))
                self._db.execute(
                    "DELETE FROM pending WHERE sequence = ? AND lease IS NULL", (sequence,)
                )
                self.bytes -= size
            self._journal.books.events -= len(rows)
            query = f"SELECT id, raw FROM dead WHERE {chosen}"  # noqa: S608 (question marks)
            dead = [row[:1] for row in self._db.execute(query, limits) if says(row[1], where)]
            self._db.executemany("DELETE FROM dead WHERE id = ?", dead)
            self._journal.books.dead -= len(dead)
        finally:
            self._db.execute("PRAGMA secure_delete = FAST")
        return len(rows)
