"""The history of a skill, as the journal tells it when the week is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bus import Bus
from schemas import (
    Event,
    FeedbackGiven,
    FeedbackJudged,
    Payload,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    SkillRetired,
    TrainingRejected,
    TrainingRequested,
)

__all__ = ["Entry", "History", "read_history"]

SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Entry:
    """One thing that happened to the skill."""

    kind: str
    """`published`, `rejected` or `retired`."""
    at: float
    """Seconds since the epoch."""
    version: int | None = None
    depth: str | None = None
    schedule: str | None = None
    attempts: int | None = None
    seconds: float | None = None
    before: float | None = None
    """MRR@10 of what was served, by the gate."""
    after: float | None = None
    """MRR@10 of the candidate, by the gate."""
    low: float | None = None
    high: float | None = None
    groups: int | None = None
    """Query groups that the gate judged on."""
    routed: float | None = None
    """Share of its own held-out queries that it keeps, 0 to 1."""
    reason: str = ""
    installed: float | None = None
    """When a published version was in service."""


@dataclass(frozen=True)
class History:
    """What the journal holds of a domain."""

    entries: tuple[Entry, ...]
    given: int
    """Pieces of feedback in the journal."""
    judged: int
    """Different ones that were judged."""
    twice: int
    """Pieces judged more than once."""
    tasks: int
    superseded: int
    """Tasks that a newer one with more data took the place of."""


async def read_history(bus: Bus, domain: str) -> History:
    """Read it all; in the order of time."""
    entries: list[Entry] = []
    installed = {
        event.data.card.digest: event.time.timestamp() for event in await _all(bus, SkillInstalled)
    }
    for event in await _all(bus, SkillPublished):
        if event.data.card.name == domain:
            entries.append(_published(event, installed))
    superseded = 0
    for event in await _all(bus, TrainingRejected):
        if event.data.skill != domain:
            continue
        if event.data.reason == SUPERSEDED:
            superseded += 1
        else:
            entries.append(_rejected(event))
    for kind in (SkillRetired, SkillRejected):
        for event in await _all(bus, kind):
            if event.data.name == domain:
                entries.append(
                    Entry(
                        "retired",
                        event.time.timestamp(),
                        version=getattr(event.data, "version", None),
                        reason=event.data.reason,
                    )
                )
    given = [event for event in await _all(bus, FeedbackGiven) if event.data.domain == domain]
    judged = [event.data.feedback_id for event in await _all(bus, FeedbackJudged)]
    tasks = [event for event in await _all(bus, TrainingRequested) if event.data.skill == domain]
    return History(
        tuple(sorted(entries, key=lambda entry: entry.at)),
        len(given),
        len(set(judged)),
        len(judged) - len(set(judged)),
        len(tasks),
        superseded,
    )


def _published(event: Event[Any], installed: dict[str, float]) -> Entry:
    data: SkillPublished = event.data
    return Entry(
        "published",
        event.time.timestamp(),
        version=data.card.version,
        depth=data.depth,
        schedule=data.schedule,
        attempts=data.attempts,
        seconds=data.seconds,
        installed=installed.get(data.card.digest),
        **_figures(data.card.metrics),
    )


def _rejected(event: Event[Any]) -> Entry:
    data: TrainingRejected = event.data
    return Entry(
        "rejected",
        event.time.timestamp(),
        depth=data.depth,
        schedule=data.schedule,
        attempts=data.attempts,
        seconds=data.seconds,
        reason=data.reason,
        **_figures(data.metrics),
    )


def _figures(metrics: dict[str, float | int | None]) -> dict[str, Any]:
    return {
        name: metrics.get(name) for name in ("before", "after", "low", "high", "groups", "routed")
    }


async def _all(bus: Bus, kind: type[Payload]) -> Sequence[Event[Any]]:
    found: list[Event[Any]] = []
    while True:
        page = await bus.read(kind, after=(found[-1].sequence or 0) if found else 0)
        if not page.events:
            return found
        found += page.events
