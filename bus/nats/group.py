"""A group's leases, as a value: who has what, until when, and how often it failed.

The rules are those of the broker's journal (`bus.journal.leases`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from bus.errors import StaleLease
from bus.settings import BrokerSettings

__all__ = ["Group", "Row", "stale"]

RECEIPTS = 128
"""Ends of leases that are remembered, so that a repeated request is told what it did."""
REASON = 2000
SETTINGS = BrokerSettings()


class Row(msgspec.Struct, array_like=True):
    """One event that a group has taken and not ended."""

    sequence: int
    kind: str
    due: float
    """When its lease runs out or, without one, when it may be leased again: the servers' time."""
    lease: str = ""
    attempt: int = 0
    failed: int = 0
    lapsed: int = 0
    dead: str = ""
    """Why it is a dead letter. Once that is stored the letter is written, then the row removed: so
    nobody finds a letter of what another acknowledged at the same moment."""

    @property
    def suspect(self) -> bool:
        """Whether it may be what its consumers die of: the next lease to run out would count."""
        return self.lapsed >= max(1, SETTINGS.free_lapses)


class Group(msgspec.Struct):
    """All that is known of a group; small: what is acknowledged is only a cursor."""

    cursors: dict[str, int] = {}
    """Up to where each type was taken; what is beyond was never leased."""
    rows: list[Row] = []
    finished: list[tuple[str, str]] = []
    """Leases that were ended, the newest last, and by which request."""
    base: int = 0
    """The sequence of the state that this one was made of; 0 for none."""
    writer: str = ""
    """Who wrote this, so that a write whose answer was lost is recognised."""

    def leased(self, lease: str, now: float) -> Row | None:
        """The row of a lease that holds."""
        return next((r for r in self.rows if lease and r.lease == lease and r.due > now), None)

    @property
    def there(self) -> bool:
        """Whether anybody ever consumed as it, since it was dropped last."""
        return bool(self.cursors or self.rows)

    def is_held(self, now: float) -> bool:
        """Whether somebody holds a lease."""
        return any(row.lease and row.due > now for row in self.rows)

    def clear(self) -> None:
        """Forget all of it; what was made of an older state is not taken for a new one."""
        self.cursors, self.rows, self.finished = {}, [], []

    def was_ended(self, leases: Sequence[str], receipt: str) -> bool:
        """Whether this very request ended them before."""
        return all((lease, receipt) in self.finished for lease in leases)

    def lapsed(self, now: float) -> bool:
        """Take back the leases that ran out, for good where they did so too often."""
        found = False
        for row in self.rows:
            if not row.lease or row.due > now:
                continue
            row.lapsed += 1
            row.failed += row.lapsed > SETTINGS.free_lapses
            row.lease, row.due, found = "", now, True
            if row.failed >= SETTINGS.max_deliveries:
                times = f"the lease ran out {row.lapsed} times"
                row.dead = f"{times}: its consumer died or froze"
        return found

    def bury(self, row: Row, reason: str) -> None:
        """It is delivered no more."""
        row.lease, row.dead = "", reason

    @property
    def dead(self) -> list[Row]:
        """Those whose letters may be still to be written."""
        return [r for r in self.rows if r.dead]

    def waiting(self, kinds: Sequence[str], limit: int, now: float) -> list[Row]:
        """What waits and is due, by number; a suspect comes alone, and none while one is out."""
        free = (r for r in self.rows if not r.lease and not r.dead)
        due = [r for r in free if r.due <= now and r.kind in kinds]
        due.sort(key=lambda r: r.sequence)
        if any(r.lease and r.suspect for r in self.rows):
            return [r for r in due if not r.suspect][:limit]
        suspects = [place for place, row in enumerate(due) if row.suspect]
        if not suspects:
            return due[:limit]
        return due[:1] if suspects[0] == 0 else due[: suspects[0]][:limit]

    def grant(self, row: Row, until: float) -> None:
        """Lease it until then."""
        row.lease, row.due = secrets.token_hex(8), until
        row.attempt += 1

    def next_due(self, now: float) -> float | None:
        """When something lapses or falls due, beyond `now`."""
        return min((r.due for r in self.rows if r.due > now), default=None)

    def end(self, rows: Sequence[Row], receipt: str) -> None:
        """These leases are over, by that request."""
        self.finished = [*self.finished, *((r.lease, receipt) for r in rows)][-RECEIPTS:]

    def remove(self, rows: Sequence[Row]) -> None:
        """The group has done with them."""
        gone = {r.sequence for r in rows}
        self.rows = [r for r in self.rows if r.sequence not in gone]

    def wait(self, row: Row, due: float, *, failed: int, attempt: int) -> None:
        """Hand it back until then."""
        row.lease, row.due, row.failed, row.attempt = "", due, failed, attempt


def stale(lease: str) -> StaleLease:
    """What a lease that no longer holds is told."""
    return StaleLease(f"the lease {lease} has run out or was ended before: nothing was changed")
