"""Groups and their leases: who has what, until when, how often it failed, and dead letters.

         lease                 ack
event ──────────▶ leased ───────────────▶ done
                   │  ▲ │ nack, lapse ×n
   defer, nack, ◀──┘  │ └────────────────▶ dead letter
   lapse: waiting ────┘
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bus.errors import StaleLease
from bus.journal.books import crc_of

if TYPE_CHECKING:
    from bus.journal.journal import Entry, Journal

__all__ = ["DeadRow", "Leased", "Leases"]

LEASE_BYTES = 8 * 2**20
RECEIPT_SECONDS = 600.0
GRACE_SECONDS = 5.0
"""Leases outlive a restart of the broker by this: nobody could extend them while it was away."""
REASON = 2000
"""Characters of the reason that a dead letter keeps."""
_MANY = 2**62


class Leased(NamedTuple):
    """One event in the hands of a consumer."""

    lease: str
    attempt: int
    raw: bytes


class DeadRow(NamedTuple):
    """One dead letter as it is kept."""

    id: int
    group: str
    reason: str
    raw: bytes


class _Row(NamedTuple):
    group: str
    sequence: int
    attempt: int
    failed: int
    lapsed: int


_COLUMNS = "grp, sequence, attempt, failed, lapsed"


class Leases:
    """The groups' part of the journal; every change stands in the journal's transaction."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._db = journal.connection
        self._looked = 0.0
        """Up to when `sweep` has looked at what became due."""
        self._cursors: dict[tuple[str, str], int] = {}
        """Up to where a group has taken a type; what is beyond was never leased."""
        self.touched = True
        """Whether `next_due` may have changed since it was asked."""
        self.freed = False
        """Whether something became due at once: who waits for a lease should try again."""

    def load(self) -> None:
        """Read the cursors from the file."""
        self._looked, self.touched = 0.0, True
        rows = self._db.execute("SELECT grp, type, position FROM cursors")
        self._cursors = {(group, kind): position for group, kind, position in rows}

    def resume(self) -> None:
        """Let the leases of a broker that died outlive it a little."""
        self._db.execute(
            "UPDATE pending SET due = max(due, ?) WHERE lease IS NOT NULL",
            (self._journal.clock() + GRACE_SECONDS,),
        )

    def declare(self, group: str, types: Sequence[str], start: str) -> None:
        """Fix where a group begins the types that are new to it."""
        for kind in types:
            if (group, kind) not in self._cursors:
                position = 0 if start == "earliest" else self._journal.head(kind)
                self._move(group, kind, position)

    def _move(self, group: str, kind: str, position: int) -> None:
        old = self._cursors.get((group, kind))
        self._journal.books.retie(
            None if old is None else (group, kind, old), (group, kind, position)
        )
        self._cursors[group, kind] = position
        self._db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", (group, kind, position))

    def cursors(self) -> dict[tuple[str, str], int]:
        """Up to where each group has taken each type."""
        return dict(self._cursors)

    def forget(self, group: str) -> None:
        """The group is no more: nothing is kept for it, and what was leased to it is stale."""
        for name, kind in [key for key in self._cursors if key[0] == group]:
            position = self._cursors.pop((name, kind))
            self._journal.books.retie((name, kind, position), None)
        self._db.execute("DELETE FROM cursors WHERE grp = ?", (group,))
        self._db.execute("DELETE FROM pending WHERE grp = ?", (group,))
        dead = self._db.execute("DELETE FROM dead WHERE grp = ?", (group,))
        self._journal.books.dead -= dead.rowcount
        self.touched = True

    def lease(
        self, group: str, types: Sequence[str], limit: int, visibility: float, start: str
    ) -> list[Leased]:
        """Up to `limit` due events for `visibility` seconds; those that wait go first."""
        self.declare(group, types, start)
        if limit <= 0:
            return []
        self.expire()
        now = self._journal.clock()
        taken: list[Leased] = []
        size = 0
        while (left := limit - len(taken)) > 0 and size < LEASE_BYTES:
            rows = self._waiting(group, types, left, now)
            if not rows or (taken and self._suspect(rows[0])):
                break
            for row in rows:
                raw = self._journal.event(row.sequence)
                if raw is None:  # the byte cap took it, or it was erased
                    self._delete(row)
                    continue
                lease = secrets.token_hex(8)
                self._db.execute(
                    "UPDATE pending SET lease = ?, due = ?, attempt = ?"
                    " WHERE grp = ? AND sequence = ?",
                    (lease, now + visibility, row.attempt + 1, group, row.sequence),
                )
                taken.append(Leased(lease, row.attempt + 1, raw))
                size += len(raw)
                if size >= LEASE_BYTES:
                    break
            if taken and self._suspect(rows[0]):
                limit = 1
        if len(taken) < limit and size < LEASE_BYTES:
            taken += self._fresh(group, types, limit - len(taken), now + visibility)
        self.touched = self.touched or bool(taken)
        return taken

    def _suspect(self, row: _Row) -> bool:
        """Whether it may be what its consumers die of: the next lease to run out would count."""
        return row.lapsed >= max(1, self._journal.settings.free_lapses)

    def _waiting(self, group: str, types: Sequence[str], limit: int, now: float) -> list[_Row]:
        """What waits and is due, by number; a suspect comes alone, and no other while it is out.

        Leased together, all would run out together as often as the one that kills who handles it,
        and become dead letters with it.
        """
        rows = self._due(group, types, limit, now)
        suspects = [row for row in rows if self._suspect(row)]
        if not suspects:
            return rows
        if self._suspected(group):
            return self._due(group, types, limit, now, suspects=False)
        return suspects[:1] if rows[0] is suspects[0] else rows[: rows.index(suspects[0])]

    def _due(
        self, group: str, types: Sequence[str], limit: int, now: float, *, suspects: bool = True
    ) -> list[_Row]:
        marks = ", ".join("?" * len(types))
        below = _MANY if suspects else max(1, self._journal.settings.free_lapses)
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM pending WHERE grp = ? AND lease IS NULL AND due <= ?"  # noqa: S608 (only question marks)
            f" AND type IN ({marks}) AND lapsed < ? ORDER BY sequence LIMIT ?",
            (group, now, *types, below, limit),
        )
        return [_Row(*row) for row in rows]

    def _suspected(self, group: str) -> bool:
        """Whether a suspect of the group is in somebody's hands."""
        found = self._db.execute(
            "SELECT 1 FROM pending WHERE lease IS NOT NULL AND +grp = ? AND lapsed >= ? LIMIT 1",
            (group, max(1, self._journal.settings.free_lapses)),
        ).fetchone()
        return found is not None

    def _fresh(self, group: str, types: Sequence[str], limit: int, until: float) -> list[Leased]:
        found: list[tuple[int, str]] = []
        for kind in set(types):
            position = self._cursors[group, kind]
            if self._journal.head(kind) > position:
                found += [(s, kind) for s in self._journal.following([kind], position, limit)]
        taken: list[Leased] = []
        moved: dict[str, int] = {}
        size = 0
        for sequence, kind in sorted(found)[:limit]:
            raw = self._journal.event(sequence)
            if raw is None:
                continue
            lease = secrets.token_hex(8)
            self._db.execute(
                "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, 1, 0, 0, ?, ?)",
                (group, sequence, kind, until, lease),
            )
            moved[kind] = sequence
            taken.append(Leased(lease, 1, raw))
            size += len(raw)
            if size >= LEASE_BYTES:
                break
        for kind, position in moved.items():
            self._move(group, kind, position)
        return taken

    def expire(self) -> None:
        """Take back the leases that ran out; from the third time on that counts as a failure."""
        now = self._journal.clock()
        settings = self._journal.settings
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM pending WHERE lease IS NOT NULL AND due <= ?",  # noqa: S608
            (now,),
        ).fetchall()
        for row in map(_Row._make, rows):
            lapsed = row.lapsed + 1
            failed = row.failed + (lapsed > settings.free_lapses)
            if failed >= settings.max_deliveries:
                self._bury(row, f"the lease ran out {lapsed} times: its consumer died or froze")
            else:
                self._db.execute(
                    "UPDATE pending SET lease = NULL, due = ?, failed = ?, lapsed = ?"
                    " WHERE grp = ? AND sequence = ?",
                    (now, failed, lapsed, row.group, row.sequence),
                )
            self.freed = self.touched = True

    def sweep(self) -> None:
        """Take back what ran out; who waits for leases is to try again after it."""
        self._looked, self.touched = self._journal.clock(), True
        self.expire()

    def next_due(self) -> float | None:
        """When something lapses or becomes due after the last `sweep` (seconds since the epoch).

        That may be past: it came while other work was under way, and nobody was woken for it.
        """
        self.touched = False
        query = "SELECT min(due) FROM pending WHERE due > ?"
        due: float | None = self._db.execute(query, (self._looked,)).fetchone()[0]
        return due

    # ends of a lease

    def ack(
        self, leases: Sequence[str], publish: Sequence[Entry], receipt: bytes
    ) -> list[tuple[int, bool]]:
        """Done, and what follows from it appended; raises `StaleLease`: then nothing changed."""
        for row in self._end(leases, receipt):
            self._delete(row)
        return self._journal.append(publish)

    def nack(self, lease: str, delay: float, reason: str, dead: bool, receipt: bytes) -> None:
        """Failed: wait `delay` seconds, or to the dead letters; raises `StaleLease`."""
        for row in self._end([lease], receipt):
            failed = row.failed + 1
            if dead or failed >= self._journal.settings.max_deliveries:
                self._bury(row, reason[:REASON] or "no reason was given")
            else:
                self._wait(row, self._journal.clock() + delay, row.attempt, failed)

    def defer(self, lease: str, until: float, receipt: bytes) -> None:
        """Not yet, uncounted; raises `StaleLease`."""
        for row in self._end([lease], receipt):
            self._wait(row, max(until, self._journal.clock()), row.attempt - 1, row.failed)

    def release(self, leases: Sequence[str]) -> None:
        """Hand back what never reached its consumer, uncounted."""
        now = self._journal.clock()
        for row in filter(None, map(self._row, leases)):
            self._wait(row, now, row.attempt - 1, row.failed)

    def extend(self, lease: str, visibility: float) -> None:
        """Keep a lease for `visibility` seconds from now; raises `StaleLease`."""
        row = self._row(lease)
        if row is None:
            raise _stale(lease)
        until = self._journal.clock() + visibility
        self._db.execute("UPDATE pending SET due = ? WHERE lease = ?", (until, lease))
        self.touched = True

    def _row(self, lease: str) -> _Row | None:
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM pending WHERE lease = ? AND due > ?",  # noqa: S608
            (lease, self._journal.clock()),
        ).fetchone()
        return _Row(*found) if found else None

    def _end(self, leases: Sequence[str], receipt: bytes) -> list[_Row]:
        """The rows to end; none where this very request was done before. Changes nothing yet

        but the receipts, and those only once every lease is known to hold.
        """
        self._journal.writable()
        rows: list[_Row] = []
        for lease in dict.fromkeys(leases):
            row = self._row(lease)
            if row is None:
                if self._done_before(leases, receipt):
                    return []
                raise _stale(lease)
            rows.append(row)
        now = self._journal.clock()
        self.freed = self.freed or any(map(self._suspect, rows))  # another one's turn
        self._db.executemany(
            "INSERT OR REPLACE INTO finished VALUES (?, ?, ?)",
            [(lease, receipt, now) for lease in dict.fromkeys(leases)],
        )
        self.touched = True
        return rows

    def _done_before(self, leases: Sequence[str], receipt: bytes) -> bool:
        query = "SELECT receipt FROM finished WHERE lease = ?"
        return all(self._db.execute(query, (lease,)).fetchone() == (receipt,) for lease in leases)

    def _wait(self, row: _Row, due: float, attempt: int, failed: int) -> None:
        self._db.execute(
            "UPDATE pending SET lease = NULL, due = ?, attempt = ?, failed = ?"
            " WHERE grp = ? AND sequence = ?",
            (due, attempt, failed, row.group, row.sequence),
        )
        self.touched = True
        self.freed = self.freed or due <= self._journal.clock()

    def _delete(self, row: _Row) -> None:
        self._db.execute(
            "DELETE FROM pending WHERE grp = ? AND sequence = ?", (row.group, row.sequence)
        )

    # dead letters

    def _bury(self, row: _Row, reason: str) -> None:
        found = self._journal.row(row.sequence)
        if found is not None:
            kind, raw = found
            at = self._journal.clock()
            crc = crc_of(self._journal.books.name, row.sequence, kind, at, raw)
            self._db.execute(
                "INSERT INTO dead (grp, sequence, type, reason, at, raw, crc)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (row.group, row.sequence, kind, reason, at, raw, crc),
            )
            self._journal.books.dead += 1
        self._delete(row)

    def dead(self, action: str, group: str | None, ids: Sequence[int] | None) -> list[DeadRow]:
        """List, retry or drop dead letters; those concerned."""
        query = "SELECT id, grp, reason, raw, sequence, type, at FROM dead"
        found: list[Any] = self._db.execute(query + " ORDER BY id").fetchall()
        named = None if ids is None else frozenset(ids)
        chosen = [
            row
            for row in found
            if (group is None or row[1] == group) and (named is None or row[0] in named)
        ]
        for name, grp, _, raw, sequence, kind, at in chosen if action != "list" else ():
            if action == "retry":
                kept = self._db.execute(
                    "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        sequence,
                        kind,
                        len(raw),
                        at,
                        raw,
                        crc_of(self._journal.books.name, sequence, kind, at, raw),
                    ),
                ).rowcount
                self._journal.books.events += kept
                self._journal.retention.grew(len(raw) * kept)
                self._db.execute(
                    "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, 0, 0, 0, ?, NULL)",
                    (grp, sequence, kind, self._journal.clock()),
                )
                self.freed = True
            self._db.execute("DELETE FROM dead WHERE id = ?", (name,))
            self._journal.books.dead -= 1
            self.touched = True
        return [DeadRow(*row[:4]) for row in chosen]


def _stale(lease: str) -> StaleLease:
    return StaleLease(f"the lease {lease} has run out or was ended before: nothing was changed")
