"""What follows a place in the journal, of all types or of some."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus.journal.journal import Journal

__all__ = ["following", "page"]

PAGE_BYTES = 8 * 2**20
MAX_PAGE = 10_000


def page(journal: Journal, types: Sequence[str] | None, after: int, limit: int) -> list[bytes]:
    """Events beyond `after`, in order; ends after `limit` events or about 8 MiB."""
    found: list[bytes] = []
    size = 0
    for sequence in following(journal, types, after, min(limit, MAX_PAGE)):
        raw = journal.event(sequence)
        if raw is None:
            continue
        found.append(raw)
        size += len(raw)
        if size >= PAGE_BYTES:
            break
    return found


def following(journal: Journal, types: Sequence[str] | None, after: int, limit: int) -> list[int]:
    """The next `limit` sequences of some types (None: all) beyond `after`, in order."""
    if types is None:
        rows = journal.connection.execute(
            "SELECT sequence FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [sequence for (sequence,) in rows]
    # One short index scan a type, merged: a rare type costs nothing among many others.
    found: list[int] = []
    for kind in set(types):
        if journal.head(kind) > after:
            rows = journal.connection.execute(
                "SELECT sequence FROM events WHERE type = ? AND sequence > ?"
                " ORDER BY sequence LIMIT ?",
                (kind, after, limit),
            )
            found += [sequence for (sequence,) in rows]
    return heapq.nsmallest(limit, found)
