"""The journal's part of forgetting a domain: what was given and derived before goes, no later one.

Feedback that names no domain is known by what it was judged into, and erased by its query; it
stays where feedback on something else had the same query, and is counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from bus import Bus
from schemas import (
    Event,
    FeedbackGiven,
    FeedbackJudged,
    GenerationObserved,
    LearningBatchQueued,
    LearningEvent,
    Payload,
    derived_id,
)
from services.runtime.forgetting import Mark

__all__ = ["Erased", "erase", "erase_given"]

GIVEN: Final[Mapping[type[Payload], str]] = {FeedbackGiven: "query", GenerationObserved: "prompt"}
"""What clients say, and the field with their question."""

DERIVED: Final = (LearningBatchQueued, LearningEvent, FeedbackJudged)
"""What the monitor says."""


class Erased(NamedTuple):
    """What became of events."""

    events: int
    kept: int
    """Events that stay, because what could name them names others too."""

    def __add__(self, other: object) -> Erased:
        if not isinstance(other, Erased):
            return NotImplemented
        return Erased(self.events + other.events, self.kept + other.kept)


async def erase(bus: Bus, domain: str, mark: Mark) -> Erased:
    """Erase what was given up to `mark.upto`, and derived from it up to `mark.said`.

    Doing it again changes nothing. Raises what the bus raises.
    """
    judged = {
        event.id
        async for event in _journaled(bus, FeedbackJudged)
        if event.data.domain == domain and _number(event) < mark.said
    }

    def of_these(given: Event[Any]) -> bool:
        # Not by `feedback_id`: two clients may give theirs the same id.
        return derived_id(given.source, given.id, FeedbackJudged.type) in judged

    done = await _erase_given(bus, domain, mark.upto, of_these if judged else None)
    return done + Erased(await bus.erase(DERIVED, {"domain": domain}, upto=mark.said), 0)


async def erase_given(bus: Bus, domain: str, upto: int, ids: Collection[str]) -> Erased:
    """Erase the domain's feedback up to a number, and that of these ids which names no domain."""
    return await _erase_given(bus, domain, upto, lambda given: given.id in ids)


async def _erase_given(
    bus: Bus, domain: str, upto: int, of_these: Callable[[Event[Any]], bool] | None
) -> Erased:
    done = Erased(0, 0)
    for kind, field in GIVEN.items():
        done += Erased(await bus.erase(kind, {"domain": domain}, upto=upto), 0)
        if of_these is None:
            continue
        nameless: list[str] = []
        others: set[str] = set()
        async for event in _journaled(bus, kind):
            if event.data.domain is None and _number(event) <= upto and of_these(event):
                nameless.append(getattr(event.data, field))
            elif _number(event) <= upto:
                others.add(getattr(event.data, field))
        for text in dict.fromkeys(nameless):
            if text in others:
                done += Erased(0, nameless.count(text))
            else:
                done += Erased(await bus.erase(kind, {field: text}, upto=upto), 0)
    return done


async def _journaled(bus: Bus, kind: type[Payload]) -> AsyncIterator[Event[Any]]:
    after = 0
    while events := (await bus.read(kind, after=after)).events:
        for event in events:
            yield event
        after = _number(events[-1])


def _number(event: Event[Any]) -> int:
    return event.sequence or 0
