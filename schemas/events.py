"""The catalogue: every event type, one class each. Adding a type is adding a class."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from schemas.base import Digest, Lane, Name, Payload, Struct, Version
from schemas.cards import AppliedSkill, BaseModelRef, ListedCard, SkillCard, SkillRef
from schemas.learning import LearningEvent

__all__ = [
    "AdapterFailed",
    "AdapterLoad",
    "AdapterLoaded",
    "AdapterUnload",
    "AdapterUnloaded",
    "AssignedRow",
    "CompletedRow",
    "DatasetRef",
    "DomainForget",
    "DomainForgotten",
    "EncodeAssigned",
    "EncodeCompleted",
    "EncodeFailed",
    "EncodeFinished",
    "EncodeRequested",
    "EventRefused",
    "FeedbackGiven",
    "FeedbackJudged",
    "FleetHeartbeat",
    "FleetStop",
    "GenerationObserved",
    "LearningBatchQueued",
    "LearningBatchRejected",
    "LearningEvent",
    "PeerJoined",
    "PeerLeft",
    "Role",
    "SkillDiscovered",
    "SkillFetched",
    "SkillInstalled",
    "SkillListRequested",
    "SkillListed",
    "SkillPublished",
    "SkillRejected",
    "SkillRetire",
    "SkillRetired",
    "SkillUnavailable",
    "SkillWanted",
    "TrainingProgressed",
    "TrainingRejected",
    "TrainingRequested",
]

Role = Literal["query", "document"]


class EncodeRequested(Payload, frozen=True, kw_only=True):
    """A client asks for the vectors of some texts; the event's id is the request's."""

    type: ClassVar[str] = "encode.requested"

    texts: tuple[str, ...]
    reply_to: str
    """The recipient of the answer: it arrives as `encode.completed@reply_to` or `.failed@`."""
    role: Role = "query"
    route: Literal["auto", "named", "base"] = "auto"
    skills: tuple[str, ...] = ()
    """With `named`: up to 3 skills, stacked in this order."""
    intent: str | None = None
    """With `auto`: one text that decides the skills of all rows."""
    top_k: int = 1
    """With `auto`: how many skills may stack on a row, 1 to 3."""
    deadline_ms: Annotated[int, Meta(ge=1)] = 30_000
    """Milliseconds after the event's time; later no answer is owed."""


class AssignedRow(Struct, frozen=True, kw_only=True):
    """Which of an assignment's skills make one row, or why none does."""

    skills: tuple[tuple[int, float], ...] = ()
    """Pairs of an index into the assignment's `skills` and the routing score."""
    reason: str | None = None


class EncodeAssigned(Payload, frozen=True, kw_only=True):
    """The router hands one request, whole, to one encoder."""

    type: ClassVar[str] = "encode.assigned"
    addressed: ClassVar[bool] = True

    request_id: str
    texts: tuple[str, ...]
    role: Role
    deadline: datetime
    skills: tuple[SkillRef, ...]
    rows: tuple[AssignedRow, ...]
    reply_to: str
    router: str


class CompletedRow(Struct, frozen=True, kw_only=True):
    """The cards that made one row; where none did, `reason` says why."""

    skills: tuple[AppliedSkill, ...] = ()
    reason: str | None = None
    """`base_requested`, `below_threshold`, `document`, `no_skills` or `peer_timeout`."""


class EncodeCompleted(Payload, frozen=True, kw_only=True):
    """The answer; its attachment `embedding` holds the vectors as an Arrow IPC stream."""

    type: ClassVar[str] = "encode.completed"
    addressed: ClassVar[bool] = True

    request_id: str
    model: str
    dim: int
    rows: tuple[CompletedRow, ...]
    tokens: int
    queue_ms: float
    compute_ms: float
    attachments: tuple[str, ...]


class EncodeFinished(Payload, frozen=True, kw_only=True):
    """An encoder tells the router that an assignment is off its hands."""

    type: ClassVar[str] = "encode.finished"
    addressed: ClassVar[bool] = True

    request_id: str
    worker: str
    failed: str | None = None


class EncodeFailed(Payload, frozen=True, kw_only=True):
    """A request that is not answered with vectors, and why."""

    type: ClassVar[str] = "encode.failed"
    addressed: ClassVar[bool] = True

    request_id: str
    code: Literal["unknown_skill", "overloaded", "deadline", "too_large", "invalid", "internal"]
    message: str
    retry_after_ms: int | None = None


class EventRefused(Payload, frozen=True, kw_only=True):
    """The broker refused an event; the recipient is the event's source."""

    type: ClassVar[str] = "event.refused"
    addressed: ClassVar[bool] = True

    id: str
    code: str
    message: str


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


class SkillPublished(Payload, frozen=True, kw_only=True):
    """A card passed the gate and lies in the store."""

    type: ClassVar[str] = "skill.published"
    lane: ClassVar[Lane] = Lane.DURABLE

    card: SkillCard
    origin: str
    """The node, or the person, that made it."""
    task_id: str | None = None


class SkillFetched(Payload, frozen=True, kw_only=True):
    """A peer's card was fetched, verified and laid into the store."""

    type: ClassVar[str] = "skill.fetched"
    lane: ClassVar[Lane] = Lane.DURABLE

    card: SkillCard
    peer: str


class SkillInstalled(Payload, frozen=True, kw_only=True):
    """A card was verified and one encoder has loaded it: requests may use it."""

    type: ClassVar[str] = "skill.installed"
    lane: ClassVar[Lane] = Lane.DURABLE

    card: SkillCard


class SkillRejected(Payload, frozen=True, kw_only=True):
    """A card that was not installed, and why."""

    type: ClassVar[str] = "skill.rejected"
    lane: ClassVar[Lane] = Lane.DURABLE

    name: str
    digest: str
    reason: str


class _Retirement(Payload, frozen=True, kw_only=True):
    """Which version leaves service, why, and what takes its place."""

    lane: ClassVar[Lane] = Lane.DURABLE

    name: Name
    version: Version
    digest: Digest
    reason: str
    successor: Digest | None = None


class SkillRetire(_Retirement, frozen=True, kw_only=True):
    """Somebody asks that a version be taken out of service."""

    type: ClassVar[str] = "skill.retire"


class SkillRetired(_Retirement, frozen=True, kw_only=True):
    """A version is out of service."""

    type: ClassVar[str] = "skill.retired"


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


class SkillListRequested(Payload, frozen=True, kw_only=True):
    """Somebody asks which cards there are."""

    type: ClassVar[str] = "skill.list_requested"

    reply_to: str


class SkillListed(Payload, frozen=True, kw_only=True):
    """The manager's answer: its cards, with their state; a long list in several parts."""

    type: ClassVar[str] = "skill.listed"
    addressed: ClassVar[bool] = True

    cards: tuple[ListedCard, ...]
    part: int = 0
    parts: int = 1
    """How many answers make the list; `part` counts them from 0 on."""


class SkillDiscovered(Payload, frozen=True, kw_only=True):
    """A peer offers a card; repeated while it is on offer."""

    type: ClassVar[str] = "skill.discovered"

    card: SkillCard
    peer: str


class SkillWanted(Payload, frozen=True, kw_only=True):
    """A request waits for a card that only a peer has."""

    type: ClassVar[str] = "skill.wanted"

    digest: str
    name: str
    peer: str | None = None


class SkillUnavailable(Payload, frozen=True, kw_only=True):
    """A wanted card could not be had."""

    type: ClassVar[str] = "skill.unavailable"

    digest: str
    name: str
    peer: str | None = None
    reason: str | None = None


class AdapterLoad(Payload, frozen=True, kw_only=True):
    """A hint: map this card soon."""

    type: ClassVar[str] = "adapter.load"
    addressed: ClassVar[bool] = True

    digest: Digest
    pin: bool | None = None


class AdapterUnload(Payload, frozen=True, kw_only=True):
    """A hint: this card may go."""

    type: ClassVar[str] = "adapter.unload"
    addressed: ClassVar[bool] = True

    digest: Digest


class _AdapterReport(Payload, frozen=True, kw_only=True):
    """What an encoder did with a card, and how long it took."""

    worker: str
    digest: Digest
    milliseconds: float
    bytes: int
    message: str | None = None


class AdapterLoaded(_AdapterReport, frozen=True, kw_only=True):
    """An encoder has mapped a card."""

    type: ClassVar[str] = "adapter.loaded"


class AdapterUnloaded(_AdapterReport, frozen=True, kw_only=True):
    """An encoder has let a card go."""

    type: ClassVar[str] = "adapter.unloaded"


class AdapterFailed(_AdapterReport, frozen=True, kw_only=True):
    """An encoder could not map a card."""

    type: ClassVar[str] = "adapter.failed"


class PeerJoined(Payload, frozen=True, kw_only=True):
    """A peer was found."""

    type: ClassVar[str] = "peer.joined"

    peer: str
    endpoint: str


class PeerLeft(Payload, frozen=True, kw_only=True):
    """A peer is gone."""

    type: ClassVar[str] = "peer.left"

    peer: str
    endpoint: str


class FleetHeartbeat(Payload, frozen=True, kw_only=True):
    """A process is alive; said every 2 s, and at once when its state changes."""

    type: ClassVar[str] = "fleet.heartbeat"

    service: str
    instance: str
    pid: int
    state: str
    """`starting`, `ready`, `draining`, `degraded` or `stopped`."""
    queue: int
    rss_bytes: int
    counters: dict[str, int | float]
    heads: dict[str, int] | None = None
    """The broker's only: the last sequence of every durable type."""


class FleetStop(Payload, frozen=True, kw_only=True):
    """The fleet, or one service, is to stop."""

    type: ClassVar[str] = "fleet.stop"

    service: str | None = None
