"""What a fleet is doing, as `GET /v1/status` and `consonance status` tell it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

__all__ = [
    "BATCH_SIZE",
    "Bar",
    "DomainStatus",
    "JournalStatus",
    "LoopStatus",
    "Minute",
    "ModelStatus",
    "OfferedSkill",
    "PeerStatus",
    "ProcessStatus",
    "RequestsStatus",
    "SkillStatus",
    "Status",
    "TrainingStatus",
    "VerdictStatus",
]

BATCH_SIZE = 16
"""Clashes that make a batch, where the fleet's settings are not known."""


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a status."""


class ModelStatus(_Told, frozen=True, kw_only=True):
    """The embedding model that the fleet serves."""

    id: str
    sha256: str
    """Of its weights, 64 hex digits."""
    dim: int | None
    """Width of its vectors; null until an encoder has told."""


class ProcessStatus(_Told, frozen=True, kw_only=True):
    """One process, as its last heartbeat told it."""

    service: str
    instance: str
    pid: int
    state: str
    """`starting`, `ready`, `draining`, `degraded`, `stopped`, or `gone`: silent for 6 s."""
    queue: int
    """What waits there: texts, clashes, phases of trainings, cards, by service."""
    rss_bytes: int
    age_s: float
    """Seconds since that heartbeat."""
    counters: dict[str, int | float]
    """What it counts, without the bounds of histograms and the cards that it holds."""
    trouble: str | None = None
    """What is wrong and what helps, in words, where a process says so."""


class Minute(_Told, frozen=True, kw_only=True):
    """Requests of all clients that ended in the last minute, as the router counted them; what the
    fleet itself asks for in order to learn is not among them."""

    requests: int
    texts: int
    """Of those that were answered."""
    failed: int
    p50_ms: float | None
    """Half were answered so soon after they had come; null where none was answered."""
    p95_ms: float | None


class Bar(_Told, frozen=True, kw_only=True):
    """Requests that ended within 5 s."""

    time: datetime
    """Its beginning."""
    requests: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None


class RequestsStatus(_Told, frozen=True, kw_only=True):
    """Requests now and lately."""

    minute: Minute
    history: tuple[Bar, ...]
    """The last five minutes, or since this view began, the oldest first."""


class TrainingStatus(_Told, frozen=True, kw_only=True):
    """A training under way."""

    task_id: str
    phase: str
    step: int
    steps: int
    loss: float
    depth: Literal["head", "body"] | None


class VerdictStatus(_Told, frozen=True, kw_only=True):
    """What the gate said of a candidate: MRR@10 on held-out feedback, before and after it."""

    time: datetime
    skill: str
    published: bool
    version: int | None
    """Null of a candidate that was refused."""
    depth: Literal["head", "body"] | None
    reason: str
    before: float | None
    after: float | None
    gain: float | None
    low: float | None
    """Lower end of the gain's interval."""
    high: float | None
    groups: int | None
    """Query groups that it was judged on."""


class DomainStatus(_Told, frozen=True, kw_only=True):
    """The loop of one domain: what clashes, what is trained, what came of it."""

    domain: str
    open: int
    """Clashes in its open batch."""
    clashes: int
    """All there ever were."""
    feedback: int
    """Pieces judged, clashes or not."""
    last: datetime | None
    """When a piece of it was last judged."""
    training: TrainingStatus | None
    verdicts: tuple[VerdictStatus, ...]
    """At most 10, the newest first."""


class LoopStatus(_Told, frozen=True, kw_only=True):
    """The learning loop."""

    batch_size: int
    """Clashes of a domain that make a batch."""
    domains: tuple[DomainStatus, ...]
    """Those with the newest activity first."""


class SkillStatus(_Told, frozen=True, kw_only=True):
    """One version of a skill."""

    name: str
    version: int
    digest: str
    state: str
    """`installed`, `kept` (an older version), `pending`, `retired` or `rejected`."""
    pinned: bool
    rank: int
    bytes: int
    description: str
    applies_to: tuple[str, ...]
    before: float | None
    after: float | None
    gain: float | None
    low: float | None
    high: float | None
    parents: tuple[str, ...]
    created: str
    signer: str | None
    """Its author's public key; null: this node's own."""
    peer: str | None
    """From which peer it came; null where it was published here."""
    workers: tuple[str, ...]
    """Encoders that have mapped it: `encoder/1`."""


class OfferedSkill(_Told, frozen=True, kw_only=True):
    """A card that a peer offers."""

    name: str
    version: int
    digest: str


class PeerStatus(_Told, frozen=True, kw_only=True):
    """Another fleet that this one meets."""

    peer: str
    endpoint: str | None
    """Null where it joined before this view began."""
    skills: tuple[OfferedSkill, ...]


class JournalStatus(_Told, frozen=True, kw_only=True):
    """How far the journal is."""

    sequence: int
    heads: dict[str, int]
    """The last sequence of every durable type."""


class Status(_Told, frozen=True, kw_only=True):
    """All of it."""

    time: datetime
    since: datetime
    """When this view began to look."""
    model: ModelStatus | None
    """Null until a card, a training or whoever asks has told which it is."""
    processes: tuple[ProcessStatus, ...]
    requests: RequestsStatus
    loop: LoopStatus
    skills: tuple[SkillStatus, ...]
    """Those that serve first; of those out of service the newest 50."""
    peers: tuple[PeerStatus, ...]
    journal: JournalStatus
