"""From one name to all that the journal knows of it: the events of one batch, forth and back.

feedback.given ─▶ feedback.judged
      └─────────▶ dissonance.detected ┐ (by the feedback's id, in the batch's events)
                                      ▼
                          learning.batch_queued ─▶ learning.batch_rejected
                                      │ (batch_ids)
                                      ▼
                           training.requested ─▶ training.rejected
                                      │ (task_id)     └ superseded: the skill's next task
                                      ▼
                             skill.published ─▶ skill.installed, .rejected, .retired (digest)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from msgspec import structs

from bus import Bus
from schemas import (
    Event,
    LearningBatchQueued,
    LearningBatchRejected,
    SkillFetched,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    SkillRetired,
    TrainingRejected,
    TrainingRequested,
)
from services.command.errors import InputRefused
from services.command.past import from_place

__all__ = ["SPINE", "Chain", "Spine", "digest_of", "spine_of"]

SPINE: Final = (
    LearningBatchQueued,
    LearningBatchRejected,
    TrainingRequested,
    TrainingRejected,
    SkillPublished,
    SkillFetched,
    SkillInstalled,
    SkillRejected,
    SkillRetire,
    SkillRetired,
)
"""What follows from feedback: few events, of which all are looked at."""

SUPERSEDED: Final = "superseded"
SHORTEST: Final = 6
"""Digits of an id that are enough, where nothing else begins so."""

_CARDS: Final = (SkillPublished, SkillFetched, SkillInstalled)
Events = list[Event[Any]]


class Spine:
    """All events of those types that the journal still has, without texts and prototypes."""

    def __init__(self, events: Iterable[Event[Any]]) -> None:
        self.events: Events = [_slim(event) for event in events]

    def of(self, *kinds: type[Any]) -> Iterator[Event[Any]]:
        """Those of some types, the oldest first."""
        return (event for event in self.events if isinstance(event.data, kinds))

    def chain(self, asked: str) -> Chain | None:
        """What belongs to a batch, a task, a card, a skill or a domain; None: nothing is named so.

        Raises `InputRefused` where the beginning of an id fits several.
        """
        for found in (self._by_id(asked), self._by_name(asked)):
            if found is not None:
                return Chain(self, found)
        known = [name for name in self._ids() if _begins(name, asked)]
        if len(asked) < SHORTEST or not known:
            return None
        if len(known) > 1:
            told = ", ".join(name[:20] for name in known[:4])
            raise InputRefused(f"{len(known)} ids begin with {asked}: {told} …; give more of it")
        found = self._by_id(known[0])
        return None if found is None else Chain(self, found)

    def newest(self) -> Chain | None:
        """What belongs to the batch that was queued last."""
        batches = list(self.of(LearningBatchQueued))
        return Chain(self, batches[-1]) if batches else None

    def of_feedback(self, feedback: str) -> Chain | None:
        """What belongs to the batch that a piece of feedback is in."""
        for batch in self.of(LearningBatchQueued):
            if any(clash.feedback_id == feedback for clash in batch.data.events):
                return Chain(self, batch)
        return None

    def near(self, asked: str) -> list[str]:
        """What somebody may have meant."""
        names = dict.fromkeys((*self._names(), *self._ids()))
        return difflib.get_close_matches(asked, list(names), n=3, cutoff=0.6)

    def _by_id(self, asked: str) -> Event[Any] | None:
        for event in self.events:
            if asked in (event.id, *_names_of(event)):
                return event
        return None

    def _by_name(self, asked: str) -> Event[Any] | None:
        """A skill's newest version, or the one that is named; else its domain's newest batch."""
        name, _, number = asked.partition("@")
        cards = [
            event
            for event in self.of(*_CARDS)
            if event.data.card.name == name and number in ("", str(event.data.card.version))
        ]
        cards.sort(key=lambda event: (event.data.card.signer is None, event.data.card.version))
        if cards:
            return next(self.about(cards[-1].data.card.digest))
        batches = [event for event in self.of(LearningBatchQueued) if event.data.domain == asked]
        return batches[-1] if batches else None

    def about(self, digest: str) -> Iterator[Event[Any]]:
        """What tells of a card."""
        return (event for event in self.events if digest_of(event) == digest)

    def _ids(self) -> list[str]:
        return list(dict.fromkeys(name for event in self.events for name in _names_of(event)))

    def _names(self) -> Iterator[str]:
        for event in self.events:
            if isinstance(event.data, LearningBatchQueued):
                yield event.data.domain
            elif isinstance(event.data, _CARDS):
                yield event.data.card.name
                yield f"{event.data.card.name}@{event.data.card.version}"


class Chain:
    """The events that belong together with one of them."""

    def __init__(self, spine: Spine, start: Event[Any]) -> None:
        self._spine = spine
        self.batches: dict[str, Event[LearningBatchQueued]] = {}
        self.tasks: dict[str, Event[TrainingRequested]] = {}
        self.digests: dict[str, None] = {}
        found = _first_of(spine, start)
        for event in found:
            self._add(event)
        self._complete()
        self.events = [event for event in spine.events if self._belongs(event)]

    @property
    def correlations(self) -> set[str]:
        """Ids by which log lines name it."""
        ids = {*self.batches, *self.tasks, *self.digests}
        tasks = {event.correlation_id for event in self.tasks.values()}
        return ids | {name for name in tasks if name} | {event.id for event in self.events}

    @property
    def feedback(self) -> dict[str, str]:
        """Ids of the feedback whose clashes are in its batches, with the rule that held."""
        return {
            clash.feedback_id: clash.reason
            for batch in self.batches.values()
            for clash in batch.data.events
            if clash.feedback_id is not None
        }

    def _add(self, event: Event[Any]) -> None:
        data = event.data
        if isinstance(data, LearningBatchQueued):
            self.batches[data.batch_id] = event
        elif isinstance(data, TrainingRequested):
            self.tasks[data.task_id] = event
        elif (digest := digest_of(event)) is not None:
            self.digests[digest] = None

    def _complete(self) -> None:
        """Tasks of its batches, and cards of its tasks, until nothing is new."""
        before = -1
        while before != (before := len(self.tasks) + len(self.digests)):
            for event in self._spine.events:
                data = event.data
                if isinstance(data, TrainingRequested):
                    if not self.batches.keys().isdisjoint(data.batch_ids):
                        self._add(event)
                elif isinstance(data, SkillPublished):
                    if data.task_id in self.tasks:
                        self._add(event)
                elif isinstance(data, TrainingRejected) and data.reason == SUPERSEDED:
                    self._hand_on(data)

    def _hand_on(self, data: TrainingRejected) -> None:
        """What a superseded task should have learned, the skill's next one does."""
        old = self.tasks.get(data.task_id)
        if old is None or data.depth == "body":
            return
        for event in self._spine.of(TrainingRequested):
            if event.data.skill == data.skill and (event.sequence or 0) > (old.sequence or 0):
                self._add(event)
                return

    def _belongs(self, event: Event[Any]) -> bool:
        data = event.data
        if isinstance(data, LearningBatchQueued | LearningBatchRejected):
            return data.batch_id in self.batches
        if isinstance(data, TrainingRequested | TrainingRejected):
            return data.task_id in self.tasks
        return digest_of(event) in self.digests


def _first_of(spine: Spine, start: Event[Any]) -> Events:
    """Where to begin so that both ways are gone: a card's task, a task's batches."""
    data = start.data
    found = [start]
    digest = digest_of(start)
    if digest is not None:
        tasks = [e.data.task_id for e in spine.about(digest) if isinstance(e.data, SkillPublished)]
        found += [e for e in spine.of(TrainingRequested) if e.data.task_id in tasks]
    elif isinstance(data, TrainingRejected):
        found += [e for e in spine.of(TrainingRequested) if e.data.task_id == data.task_id]
    named = {
        name for e in found if isinstance(e.data, TrainingRequested) for name in e.data.batch_ids
    }
    if isinstance(data, LearningBatchRejected):
        named.add(data.batch_id)
    return found + [e for e in spine.of(LearningBatchQueued) if e.data.batch_id in named]


def digest_of(event: Event[Any]) -> str | None:
    """The card that an event tells of."""
    data = event.data
    if isinstance(data, _CARDS):
        return str(data.card.digest)
    return getattr(data, "digest", None)


def _names_of(event: Event[Any]) -> Sequence[str]:
    """What an event may be asked for by, beside its own id."""
    data = event.data
    if isinstance(data, LearningBatchQueued | LearningBatchRejected):
        return (data.batch_id,)
    if isinstance(data, TrainingRequested | TrainingRejected):
        return (data.task_id,)
    digest = digest_of(event)
    return () if digest is None else (digest,)


def _begins(name: str, asked: str) -> bool:
    return name.startswith(asked) or name.removeprefix("sha256:").startswith(asked)


def _slim(event: Event[Any]) -> Event[Any]:
    """Without what is large: a long journal is to fit into memory."""
    data = event.data
    if isinstance(data, LearningBatchQueued):
        bare = tuple(
            structs.replace(clash, prompt="", positives=(), negatives=()) for clash in data.events
        )
        return structs.replace(event, data=structs.replace(data, events=bare))
    if isinstance(data, _CARDS):
        card = structs.replace(data.card, prototypes="", boundary="")
        return structs.replace(event, data=structs.replace(data, card=card))
    return event


async def spine_of(bus: Bus) -> Spine:
    """Read it. Raises `BusError`."""
    return Spine([_slim(event) async for event in from_place(bus, SPINE, 0)])
