"""The journal's part of forgetting a domain: what was given and derived before goes, no later one.

The journal erases by what an event's data say. Where nothing was said of the domain since, one
erasure by its name takes all of a type; else events go one by one. Feedback that names no domain
is known by what it was judged into, and erased by its query; it stays where feedback on something
else has the same query, and is counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final, NamedTuple

import structlog

from bus import Bus
from schemas import (
    Event,
    FeedbackGiven,
    FeedbackJudged,
    GenerationObserved,
    LearningBatchQueued,
    LearningEvent,
    Payload,
)
from services.runtime.forgetting import Mark

__all__ = ["Erased", "erase", "erase_given"]

GIVEN: Final[Mapping[type[Payload], str]] = {FeedbackGiven: "query", GenerationObserved: "prompt"}
"""What clients say, and the field with their question."""

DERIVED: Final[Mapping[type[Payload], str]] = {
    LearningBatchQueued: "batch_id",
    LearningEvent: "feedback_id",
    FeedbackJudged: "feedback_id",
}
"""What the monitor says, and the field that names it; what was judged at last: it tells which
feedback without a domain is meant."""

_log = structlog.get_logger(service="dissonance_monitor")


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
        event.data.feedback_id
        async for event in _journaled(bus, FeedbackJudged)
        if event.data.domain == domain and _number(event) < mark.said
    }
    done = await erase_given(bus, domain, mark.upto, judged)
    for kind, field in DERIVED.items():
        done += await _erase_derived(bus, kind, field, domain, mark.said)
    return done


async def erase_given(bus: Bus, domain: str, upto: int, ids: Collection[str]) -> Erased:
    """Erase the domain's feedback up to a number, and that of these ids which names no domain."""
    done = Erased(0, 0)
    for kind, field in GIVEN.items():
        named: list[str] = []
        nameless: list[str] = []
        later: set[str] = set()
        others: set[str] = set()
        async for event in _journaled(bus, kind):
            text = getattr(event.data, field)
            if event.data.domain == domain and _number(event) <= upto:
                named.append(text)
            elif event.data.domain is None and event.id in ids and _number(event) <= upto:
                nameless.append(text)
            else:
                others.add(text)
                if event.data.domain == domain:
                    later.add(text)
        done += await _erase_named(bus, kind, field, domain, named, later)
        for text in dict.fromkeys(nameless):
            if text in others:
                done += Erased(0, nameless.count(text))
            else:
                done += Erased(await bus.erase(kind, {field: text}), 0)
    return done


async def _erase_named(
    bus: Bus, kind: type[Payload], field: str, domain: str, old: list[str], later: set[str]
) -> Erased:
    if not old:
        return Erased(0, 0)
    if not later:
        count = await bus.erase(kind, {"domain": domain})
        if count > len(old):  # it was given in the very moment between reading and erasing
            _log.error("newer feedback was erased too", domain=domain, events=count - len(old))
        return Erased(count, 0)
    done = Erased(0, 0)
    for text in dict.fromkeys(old):
        if text in later:
            done += Erased(0, old.count(text))
        else:
            done += Erased(await bus.erase(kind, {"domain": domain, field: text}), 0)
    return done


async def _erase_derived(
    bus: Bus, kind: type[Payload], field: str, domain: str, said: int
) -> Erased:
    old: list[str] = []
    later = False
    async for event in _journaled(bus, kind):
        if event.data.domain == domain:
            if _number(event) < said:
                old.append(getattr(event.data, field) or "")
            else:
                later = True
    if old and not later:
        return Erased(await bus.erase(kind, {"domain": domain}), 0)
    done = Erased(0, 0)
    for name in dict.fromkeys(old):
        done += Erased(await bus.erase(kind, {"domain": domain, field: name}), 0)
    return done


async def _journaled(bus: Bus, kind: type[Payload]) -> AsyncIterator[Event[Any]]:
    after = 0
    while events := (await bus.read(kind, after=after)).events:
        for event in events:
            yield event
        after = _number(events[-1])


def _number(event: Event[Any]) -> int:
    return event.sequence or 0
