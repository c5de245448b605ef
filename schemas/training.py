"""What is said from a piece of feedback to a trained card."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from schemas.base import Digest, Lane, Name, Payload, Struct
from schemas.cards import BaseModelRef
from schemas.learning import LearningEvent

__all__ = [
    "DatasetRef",
    "DomainForget",
    "DomainForgotten",
    "FeedbackGiven",
    "FeedbackJudged",
    "GenerationObserved",
    "LearningBatchQueued",
    "LearningBatchRejected",
    "TrainingProgressed",
    "TrainingRejected",
    "TrainingRequested",
]


class FeedbackGiven(Payload, frozen=True, kw_only=True):
    """What people found relevant, and what not, for one query."""

    type: ClassVar[str] = "feedback.given"
    lane: ClassVar[Lane] = Lane.DURABLE

    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...] = ()
    domain: Name | None = None
    served: tuple[Digest, ...] | None = None
    """Cards that made the query's vector; empty: the base model; absent: ask the router."""


class FeedbackJudged(Payload, frozen=True, kw_only=True):
    """One piece of feedback with its domain and scores, clash or not."""

    type: ClassVar[str] = "feedback.judged"
    lane: ClassVar[Lane] = Lane.DURABLE

    feedback_id: str
    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...]
    domain: Name
    served: tuple[Digest, ...]
    rouge_score: float
    entropy_delta: float
    margin: float | None = None


class GenerationObserved(Payload, frozen=True, kw_only=True):
    """A language model's output beside its reference, from any tool that watches one."""

    type: ClassVar[str] = "generation.observed"
    lane: ClassVar[Lane] = Lane.DURABLE

    prompt: str
    output: str
    reference: str
    entropy_before: float
    entropy_after: float
    domain: Name | None = None


class LearningBatchQueued(Payload, frozen=True, kw_only=True):
    """Enough clashes of one domain to learn from."""

    type: ClassVar[str] = "learning.batch_queued"
    lane: ClassVar[Lane] = Lane.DURABLE

    batch_id: str
    domain: Name
    events: tuple[LearningEvent, ...]


class LearningBatchRejected(Payload, frozen=True, kw_only=True):
    """A batch of which nothing learnable remained."""

    type: ClassVar[str] = "learning.batch_rejected"
    lane: ClassVar[Lane] = Lane.DURABLE

    batch_id: str
    reason: str


class DatasetRef(Struct, frozen=True, kw_only=True):
    """A dataset by content; it lies in the dataset folder under its digest."""

    digest: Digest
    rows: int


class TrainingRequested(Payload, frozen=True, kw_only=True):
    """A dataset is ready; the factory owes a card or a refusal."""

    type: ClassVar[str] = "training.requested"
    lane: ClassVar[Lane] = Lane.DURABLE

    task_id: str
    skill: Name
    domain: Name
    dataset: DatasetRef
    base_model: BaseModelRef
    batch_ids: tuple[str, ...]
    sources: dict[str, int] = msgspec.field(default_factory=dict)
    """Rows by where they came from."""
    teacher_reason: str | None = None
    """Why the teacher added nothing, where one was asked."""


class TrainingProgressed(Payload, frozen=True, kw_only=True):
    """How far a training is."""

    type: ClassVar[str] = "training.progressed"

    task_id: str
    step: int
    steps: int
    loss: float
    phase: str


class TrainingRejected(Payload, frozen=True, kw_only=True):
    """A card that did not pass the gate, with the figures."""

    type: ClassVar[str] = "training.rejected"
    lane: ClassVar[Lane] = Lane.DURABLE

    task_id: str
    skill: Name
    reason: str
    metrics: dict[str, float | int | None]
    depth: Literal["head", "body"] | None = None
    """What was trained."""
    schedule: str | None = None
    """When it was to be trained: `at_once`, `quiet` or `cron`."""
    attempts: int | None = None
    """Candidates judged since the version before was published, this and outdated ones included."""
    seconds: float | None = None
    """What training and gate took; null where there was no verdict."""


class DomainForget(Payload, frozen=True, kw_only=True):
    """Every store is to erase what it holds of a domain."""

    type: ClassVar[str] = "domain.forget"
    lane: ClassVar[Lane] = Lane.DURABLE

    domain: Name


class DomainForgotten(Payload, frozen=True, kw_only=True):
    """A store has erased what it held of a domain."""

    type: ClassVar[str] = "domain.forgotten"
    lane: ClassVar[Lane] = Lane.DURABLE

    domain: Name
    service: str = ""
    """Whose store it was: `dissonance_monitor`, then `distiller`, then `factory`, at last
    `journal`."""
    erased: int = 0
    """What was erased: pieces of feedback, clashes, tasks and the like; of the journal events."""
    kept: int = 0
    """Events of the journal that stay: they name no domain, and share their query with others."""
