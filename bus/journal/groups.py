"""Groups as those see them who look after the journal: how far behind they are, and their end.

A group keeps what it has not acknowledged: one whose processes are gone for good keeps it up to the
byte cap, until somebody drops the group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bus.contract import GroupState
from bus.errors import Consumed

if TYPE_CHECKING:
    from bus.journal.journal import Journal

__all__ = ["FAR", "drop", "lags", "states"]

FAR = 10_000
"""Events of each type that are counted: a group that died long ago costs little."""
MOST = 32
"""Groups whose lag is told in every heartbeat."""


def lags(journal: Journal) -> dict[str, int]:
    """Events that each group has yet to acknowledge, of the first `MOST`; of a type up to `FAR`."""
    groups = _groups(journal)
    names = sorted(groups)[:MOST]
    return {name: sum(_counts(journal, name, groups[name], FAR)) for name in names}


def states(journal: Journal, waiting: Collection[str], only: str | None = None) -> list[GroupState]:
    """How every group stands, by name, or one; `waiting`: as whom somebody waits."""
    dead: dict[str, int] = dict(
        journal.connection.execute("SELECT grp, count(*) FROM dead GROUP BY grp").fetchall()
    )
    return [
        _state(journal, name, positions, consumed=name in waiting, dead=dead.get(name, 0))
        for name, positions in sorted(_groups(journal).items())
        if only in (None, name)
    ]


def drop(journal: Journal, name: str, waiting: Collection[str], *, force: bool) -> list[GroupState]:
    """Forget a group; how it stood, none where there is none of that name.

    Raises `Consumed` while somebody consumes as it, unless by `force`.
    """
    found = states(journal, waiting, name)
    for state in found:
        if state.consumed and not force:
            raise Consumed.of(name)
        journal.leases.forget(name)
    return found


def _groups(journal: Journal) -> dict[str, dict[str, int]]:
    """Up to where each group has taken each type."""
    found: dict[str, dict[str, int]] = {}
    for (group, kind), position in journal.leases.cursors().items():
        found.setdefault(group, {})[kind] = position
    return found


def _counts(journal: Journal, name: str, positions: Mapping[str, int], most: int) -> Iterable[int]:
    """What the group has in its hands, then what of each type it has yet to take; up to `most`."""
    taken = "SELECT count(*) FROM (SELECT 1 FROM pending WHERE grp = ? LIMIT ?)"
    yield _one(journal, taken, name, most)
    beyond = "SELECT count(*) FROM (SELECT 1 FROM events WHERE type = ? AND sequence > ? LIMIT ?)"
    for kind, position in positions.items():
        if position < journal.head(kind):
            yield _one(journal, beyond, kind, position, most)


def _state(
    journal: Journal, name: str, positions: Mapping[str, int], *, consumed: bool, dead: int
) -> GroupState:
    counts = list(_counts(journal, name, positions, FAR + 1))
    held = "SELECT count(*) FROM pending WHERE grp = ? AND lease IS NOT NULL AND due > ?"
    oldest = _oldest(journal, name, positions) if any(counts) else None
    return GroupState(
        name=name,
        types=tuple(sorted(positions)),
        behind=sum(min(count, FAR) for count in counts),
        more=any(count > FAR for count in counts),
        since=None if oldest is None else datetime.fromtimestamp(oldest, UTC),
        consumed=consumed or _one(journal, held, name, journal.clock()) > 0,
        dead=dead,
    )


def _oldest(journal: Journal, name: str, positions: Mapping[str, int]) -> float | None:
    """When the first event was journaled that the group has yet to acknowledge."""
    taken = (
        "SELECT min(at) FROM events WHERE sequence IN (SELECT sequence FROM pending WHERE grp = ?)"
    )
    beyond = "SELECT at FROM events WHERE type = ? AND sequence > ? ORDER BY sequence LIMIT 1"
    found = [_one(journal, taken, name)]
    found += [_one(journal, beyond, kind, position) for kind, position in positions.items()]
    return min((at for at in found if at is not None), default=None)


def _one(journal: Journal, query: str, *values: object) -> Any:
    row = journal.connection.execute(query, values).fetchone()
    return None if row is None else row[0]
