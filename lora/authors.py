"""Of the cards of one name, by several authors and in several versions, the one that is meant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

__all__ = ["Edition", "foremost", "moment"]

T = TypeVar("T")


class Edition(NamedTuple):
    """What decides between cards of one name."""

    author: str | None
    """None: this node's own."""
    version: int
    created: float
    """Seconds since the epoch."""
    digest: str


def moment(created: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; what is none is older than everything."""
    try:
        found = datetime.fromisoformat(created)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return -math.inf


def foremost(items: Iterable[T], edition: Callable[[T], Edition]) -> T | None:
    """The newest version of this node's own where there is one, else of all authors' newest
    versions the one that was made last. Numbers compare within one author only."""
    newest: dict[str | None, tuple[Edition, T]] = {}
    for item in items:
        of = edition(item)
        best = newest.get(of.author)
        if best is None or (of.version, of.created, of.digest) > best[0][1:]:
            newest[of.author] = of, item
    if None in newest:
        return newest[None][1]
    made = sorted(newest.values(), key=lambda it: (it[0].created, it[0].version, it[0].digest))
    return made[-1][1] if made else None
