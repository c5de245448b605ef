"""Several factories, each with a store of its own: which of them trains a skill.

All of them take every task and all feedback, each as a group of its own, and follow by the journal
what the others make of it; so whoever is left can go on. A skill has one factory at a time: the
first choice by rendezvous among those whose heartbeats are heard, unless another has it in training
still. Were two at it for all that, the journal keeps the first word: what factories say of a task
has the same source and id whoever says it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from bus import Bus
from schemas import Event, FleetHeartbeat, SkillPublished, TrainingRejected, address_of
from services.factory.tasks import Owed
from services.runtime.siblings import Siblings

__all__ = [
    "OUTCOMES",
    "SETTLED",
    "VOICE",
    "Sharing",
    "claims",
    "group_of",
    "outcomes_since",
    "without_claims",
]

VOICE: Final = "/factory/1"
"""As whom every factory speaks of tasks and versions."""

OUTCOMES: Final = (SkillPublished, TrainingRejected)
"""What ends a phase of a task."""

SETTLED: Final = 5.0
"""Seconds after somebody came or went for which nothing is begun: two heartbeats, and so what the
others have in training is known."""

_CLAIM: Final = "trains:"
_PAGE: Final = 100


def group_of(instance: str) -> str:
    """The group as which a factory takes tasks and feedback: each of them gets all of it."""
    own = f"/factory/{instance}"
    return "factory" if own == VOICE else address_of(own)


def claims(skills: Iterable[str]) -> dict[str, int]:
    """Counters that tell which skills are in training."""
    return {f"{_CLAIM}{skill}": 1 for skill in skills}


class Sharing:
    """Who else is there and at what. No clock: `now` is in seconds, monotonic."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._siblings = Siblings(own)
        self._busy: dict[str, frozenset[str]] = {}
        self._known: tuple[str, ...] = ()
        self._since = 0.0

    def hear(self, event: Event[FleetHeartbeat], now: float) -> bool:
        """A factory's heartbeat; whether it changes who may train what."""
        address, beat = address_of(event.source), event.data
        self._siblings.hear(address, beat.state, now)
        busy = frozenset(
            name.removeprefix(_CLAIM) for name in beat.counters if name.startswith(_CLAIM)
        )
        changed = busy != self._busy.get(address, frozenset())
        self._busy[address] = busy
        return self.look(now) or (changed and address != self._own)

    def look(self, now: float) -> bool:
        """Whether somebody came or went, since this was asked last."""
        there = self._siblings.others(now)
        if there == self._known:
            return False
        self._known, self._since = there, now
        return True

    def unsettled(self, now: float) -> float:
        """Seconds until something may be begun; 0 for a factory that is alone."""
        return max(0.0, self._since + SETTLED - now) if self._since else 0.0

    def is_mine(self, skill: str, now: float) -> bool:
        """Whether this is the factory of a skill."""
        return self._siblings.is_mine(skill, now)

    def may_begin(self, skill: str, now: float) -> bool:
        """Whether to train it now."""
        if self.unsettled(now) or not self.is_mine(skill, now):
            return False
        return not any(skill in self._busy.get(it, ()) for it in self._siblings.others(now))


async def outcomes_since(
    bus: Bus, owed: Owed, heed: Callable[[Event[Any]], Awaitable[None]]
) -> None:
    """Hand what the journal tells of a task since it was asked for to `heed`."""
    after = owed.event.sequence or 0
    while events := (await bus.read(OUTCOMES, after=after, limit=_PAGE)).events:
        for event in events:
            if event.data.task_id == owed.task.task_id:
                await heed(event)
            after = event.sequence or after


def without_claims(counters: Mapping[str, int | float]) -> dict[str, int | float]:
    """The counters but for those of `claims`."""
    return {name: value for name, value in counters.items() if not name.startswith(_CLAIM)}
