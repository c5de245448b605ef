"""When each step of one installation was done, from the times that the events bear."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas import (
    Event,
    LearningBatchQueued,
    LearningEvent,
    SkillInstalled,
    SkillPublished,
    TrainingRejected,
    TrainingRequested,
)

__all__ = ["KINDS", "STEPS", "Timeline"]

KINDS = (
    LearningEvent,
    LearningBatchQueued,
    TrainingRequested,
    TrainingRejected,
    SkillPublished,
    SkillInstalled,
)
"""The events that a timeline is made of."""

STEPS = {
    "queued": "last clash to its batch",
    "requested": "batch to the dataset",
    "trained": "dataset to the published card, less the training",
    "installed": "published to installed",
    "answered": "installed to the first answer",
}
"""The steps, and what each is called."""


@dataclass
class Timeline:
    """One domain's way from clashes to a card; times are seconds since the epoch."""

    domain: str
    pieces: int
    """Clashes that are wanted, all of them in batches."""
    clashes: int = 0
    batched: int = 0
    given: float = 0.0
    """When the last piece of feedback was journaled."""
    clash: float = 0.0
    queued: float = 0.0
    requested: float = 0.0
    published: float = 0.0
    installed: float = 0.0
    answered: float = 0.0
    training: float = 0.0
    """Seconds that the training says of itself: without the start and the end of its process."""
    refused: str | None = None
    """Why there will be no card."""
    digest: str = ""
    task: str = ""
    open: set[str] = field(default_factory=set)
    """Batches without a dataset."""

    def take(self, event: Event[Any]) -> None:
        """Enter one event; of the wrong domain is no error."""
        at = event.time.timestamp()
        match event.data:
            case LearningEvent(domain=self.domain):
                self.clashes, self.clash = self.clashes + 1, max(self.clash, at)
            case LearningBatchQueued(domain=self.domain, batch_id=batch, events=clashes):
                self.batched, self.queued = self.batched + len(clashes), max(self.queued, at)
                self.open.add(batch)
            case TrainingRequested(domain=self.domain, task_id=task, batch_ids=batches):
                self.requested, self.task = max(self.requested, at), task
                self.open -= set(batches)
            case TrainingRejected(task_id=self.task, reason=reason):
                self.refused = reason
            case SkillPublished(card=card, task_id=self.task) if card.name == self.domain:
                self.published, self.training = at, event.data.seconds or 0.0
                self.digest = card.digest
            case SkillInstalled(card=card) if card.digest == self.digest:
                self.installed = at
            case _:
                pass

    @property
    def complete(self) -> bool:
        """The card of the last batch is installed."""
        return self.asked and bool(self.installed)

    @property
    def over(self) -> bool:
        """There will be no card: the newest task was refused."""
        return self.asked and self.refused is not None

    @property
    def asked(self) -> bool:
        """Every clash is in a batch, and every batch in a dataset."""
        return self.batched >= self.pieces and not self.open

    def steps(self) -> dict[str, float]:
        """Seconds of each of `STEPS`; the training's own are in none of them."""
        return {
            "queued": self.queued - self.clash,
            "requested": self.requested - self.queued,
            "trained": self.published - self.requested - self.training,
            "installed": self.installed - self.published,
            "answered": self.answered - self.installed,
        }

    @property
    def beside(self) -> float:
        """Seconds from the last clash to the answer, without the training's own."""
        return self.answered - self.clash - self.training
