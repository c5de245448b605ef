"""What the journal must say when all is over: everything once, nothing missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bus import Bus
from schemas import (
    Event,
    FeedbackGiven,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    LearningEvent,
    Payload,
    SkillInstalled,
    SkillPublished,
    TrainingRejected,
    TrainingRequested,
)

__all__ = ["BATCH_MIN", "Books", "faults_of", "read_books"]

BATCH_MIN = 4
"""Fewer clashes of a domain wait for more."""


class Books:
    """The whole learning loop as the journal has it."""

    def __init__(self, events: Mapping[type[Payload], list[Event[Any]]]) -> None:
        self.given = events[FeedbackGiven]
        self.judged = events[FeedbackJudged]
        self.clashes = events[LearningEvent]
        self.batches = events[LearningBatchQueued]
        self.refused_batches = events[LearningBatchRejected]
        self.tasks = events[TrainingRequested]
        self.refused_tasks = events[TrainingRejected]
        self.published = events[SkillPublished]
        self.installed = events[SkillInstalled]

    @property
    def learned(self) -> list[Event[Any]]:
        """What was published because of a task."""
        return [event for event in self.published if event.data.task_id]

    @property
    def batch_answers(self) -> Counter[str]:
        """How often each batch was made a task of, or refused."""
        found = Counter(batch for event in self.tasks for batch in event.data.batch_ids)
        found.update(event.data.batch_id for event in self.refused_batches)
        return found

    @property
    def verdicts(self) -> Counter[str]:
        """How often each task was answered."""
        found = Counter(event.data.task_id for event in self.learned)
        found.update(event.data.task_id for event in self.refused_tasks)
        return found

    @property
    def batched(self) -> Counter[str]:
        """In how many batches each clash is, by its feedback."""
        return Counter(it.feedback_id for batch in self.batches for it in batch.data.events)

    @property
    def waiting(self) -> str:
        """What the loop still has to do; nothing where it is idle."""
        left = len({event.id for event in self.given}) - len(self.judged)
        if left > 0:
            return f"{left} pieces of feedback are not judged"
        batches = {event.data.batch_id for event in self.batches} - set(self.batch_answers)
        if batches:
            return f"{len(batches)} batches are not answered"
        open_: Counter[str] = Counter(event.data.domain for event in self.clashes)
        for batch in self.batches:
            open_[batch.data.domain] -= len(batch.data.events)
        crowded = [domain for domain, count in open_.items() if count >= BATCH_MIN]
        if crowded:
            return f"clashes of {', '.join(crowded)} are in no batch"
        tasks = {event.data.task_id for event in self.tasks} - set(self.verdicts)
        if tasks:
            return f"{len(tasks)} tasks have no verdict"
        missing = {event.data.card.digest for event in self.published} - {
            event.data.card.digest for event in self.installed
        }
        return f"{len(missing)} cards are not installed" if missing else ""


async def read_books(bus: Bus) -> Books:
    """Read the journal, as far as it is about learning."""
    kinds = (
        FeedbackGiven,
        FeedbackJudged,
        LearningEvent,
        LearningBatchQueued,
        LearningBatchRejected,
        TrainingRequested,
        TrainingRejected,
        SkillPublished,
        SkillInstalled,
    )
    found: dict[type[Payload], list[Event[Any]]] = {kind: [] for kind in kinds}
    after = 0
    while page := (await bus.read(kinds, after=after)).events:
        for event in page:
            found[type(event.data)].append(event)
        after = page[-1].sequence or after
    return Books(found)


def faults_of(books: Books, acknowledged: Iterable[str], attempted: Iterable[str]) -> list[str]:
    """A sentence for each promise of the loop that the journal breaks.

    `acknowledged`, `attempted`: ids of the feedback that was confirmed to its giver, and of all
    that was sent.
    """
    found: list[str] = []
    given = Counter(event.id for event in books.given)
    judged = Counter(event.data.feedback_id for event in books.judged)

    def note(what: str, which: Iterable[object]) -> None:
        listed = sorted(map(str, which))
        if listed:
            found.append(f"{len(listed)} {what}: {', '.join(listed[:3])}")

    note("acknowledged pieces of feedback are lost", set(acknowledged) - set(given))
    note("pieces of feedback were given by nobody", set(given) - set(attempted))
    note("pieces of feedback are journaled twice", _more(given))
    note("pieces of feedback were never judged", set(given) - set(judged))
    note("pieces of feedback were judged twice", _more(judged))
    note("judgements are of no feedback", set(judged) - set(given))
    clashes = Counter(event.data.feedback_id for event in books.clashes)
    note("clashes were told twice", _more(clashes))
    note("clashes are in two batches", _more(books.batched))
    note("clashes of batches were never told", set(books.batched) - set(clashes))
    note("batches are in two tasks", _more(books.batch_answers))
    note(
        "batches have no task",
        {it.data.batch_id for it in books.batches} - set(books.batch_answers),
    )
    tasks = Counter(event.data.task_id for event in books.tasks)
    note("tasks were asked for twice", _more(tasks))
    note("tasks were answered twice", _more(books.verdicts))
    note("tasks were never answered", set(tasks) - set(books.verdicts))
    note("verdicts are of no task", set(books.verdicts) - set(tasks))
    published = Counter(event.data.card.digest for event in books.published)
    note("cards were published twice", _more(published))
    versions: dict[str, list[int]] = defaultdict(list)
    for event in books.learned:
        versions[event.data.card.name].append(event.data.card.version)
    for name, numbers in versions.items():
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"the versions of {name} do not count up: {numbers}")
    installed = Counter(event.data.card.digest for event in books.installed)
    note("published cards were never installed", set(published) - set(installed))
    note("cards were installed twice", _more(installed))
    note("installed cards were never published", set(installed) - set(published))
    return found


def _more(counts: Counter[str]) -> list[str]:
    return [name for name, count in counts.items() if count > 1]
