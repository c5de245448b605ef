"""Stretches of the journal: from a place on, or all of one skill."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from bus import Bus
from schemas import (
    Event,
    Payload,
    SkillFetched,
    SkillInstalled,
    SkillPin,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    SkillRetired,
    TrainingRejected,
    TrainingRequested,
)

__all__ = ["HAPPENINGS", "from_place", "happenings"]

PAGE: Final = 500

HAPPENINGS: Final = (
    TrainingRequested,
    TrainingRejected,
    SkillPublished,
    SkillFetched,
    SkillInstalled,
    SkillRejected,
    SkillPin,
    SkillRetire,
    SkillRetired,
)
"""What tells of a skill."""


async def from_place(
    bus: Bus, kinds: Sequence[type[Payload]], after: int, until: int | None = None
) -> AsyncGenerator[Event[Any]]:
    """The events of `kinds` after a sequence, up to and with `until`, else all there are now.

    Raises `BusError`.
    """
    heads = await bus.heads()
    end = max((heads.get(kind.type, 0) for kind in kinds), default=0)
    end = end if until is None else min(end, until)
    while after < end:
        page = await bus.read(kinds, after=after, limit=PAGE)
        if not page.events:
            return
        for event in page.events:
            if (event.sequence or 0) > end:
                return
            yield event
        after = page.events[-1].sequence or 0


async def happenings(bus: Bus, name: str) -> AsyncGenerator[Event[Any]]:
    """What the journal tells of a skill, the oldest first. Raises `BusError`."""
    async for event in from_place(bus, HAPPENINGS, 0):
        if _name(event.data) == name:
            yield event


def _name(data: Any) -> str:
    if isinstance(data, SkillPublished | SkillFetched | SkillInstalled):
        return data.card.name
    if isinstance(data, TrainingRequested | TrainingRejected):
        return data.skill
    return str(data.name)
