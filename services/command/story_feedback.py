"""The beginning of a story: pieces of feedback, when they were given and what was found of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from bus import Bus
from schemas import FeedbackGiven, FeedbackJudged, GenerationObserved, LearningEvent
from services.command.past import from_place

__all__ = ["Piece", "pieces_of"]

GIVEN: Final = (FeedbackGiven, GenerationObserved)
KINDS: Final = (*GIVEN, FeedbackJudged, LearningEvent)

SLACK: Final = timedelta(minutes=10)
"""By so much the clocks of those who give feedback may differ, before all of it is looked at."""


@dataclass
class Piece:
    """One piece of feedback; its texts are left out."""

    id: str
    given: datetime | None = None
    judged: datetime | None = None
    domain: str | None = None
    clash: str | None = None
    """The rule that made it a clash; null: it is none, or not judged yet."""
    clashed: datetime | None = None
    sequences: dict[str, int] = field(default_factory=dict)
    """The journal's numbers of its events, by type."""


async def pieces_of(
    bus: Bus, ids: Collection[str], since: datetime | None, until: int | None
) -> list[Piece]:
    """What the journal tells of these pieces, in the order in which they were given.

    `since`: when the first was given, as far as known; `until`: a sequence behind all of them.
    Raises `BusError`.
    """
    found = {name: Piece(name) for name in ids}
    after = 0 if since is None else await _before(bus, since - SLACK)
    await _read(bus, found, after, until)
    if after and any(piece.given is None for piece in found.values()):
        await _read(bus, found, 0, after)
    told = [piece for piece in found.values() if piece.sequences]
    return sorted(told, key=lambda piece: min(piece.sequences.values()))


async def _read(bus: Bus, found: dict[str, Piece], after: int, until: int | None) -> None:
    async for event in from_place(bus, KINDS, after, until):
        data = event.data
        name = event.id if isinstance(data, GIVEN) else data.feedback_id
        piece = found.get(name or "")
        if piece is None:
            continue
        piece.sequences[event.type] = event.sequence or 0
        if isinstance(data, GIVEN):
            piece.given = event.time
        elif isinstance(data, FeedbackJudged):
            piece.judged, piece.domain = event.time, data.domain
        elif isinstance(data, LearningEvent):
            piece.clashed, piece.clash = event.time, data.reason


async def _before(bus: Bus, moment: datetime) -> int:
    """A sequence before everything that was given from a moment on, if all clocks agree."""
    low, high = 0, max((await bus.heads()).values(), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        page = await bus.read(GIVEN, after=middle, limit=1)
        if page.events and page.events[0].time < moment:
            low = middle
        else:
            high = middle - 1
    return low
