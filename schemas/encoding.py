"""What is said of encode requests: asked, assigned, answered or refused."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from schemas.base import Moment, Payload, Struct
from schemas.cards import AppliedSkill, SkillRef

__all__ = [
    "AssignedRow",
    "CompletedRow",
    "EncodeAssigned",
    "EncodeCompleted",
    "EncodeFailed",
    "EncodeFinished",
    "EncodeRequested",
    "EventRefused",
    "FinishedToo",
    "Role",
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
    deadline: Moment
    skills: tuple[SkillRef, ...]
    rows: tuple[AssignedRow, ...]
    reply_to: str
    router: str
    client: str = ""
    """On whose behalf: clients share an encoder equally. Empty: on that of `reply_to`."""
    several: bool = False
    """Whether the router reads of several assignments in one `encode.finished`."""


class CompletedRow(Struct, frozen=True, kw_only=True):
    """The cards that made one row; where none did, `reason` says why."""

    skills: tuple[AppliedSkill, ...] = ()
    reason: str | None = None
    """`base_requested`, `below_threshold`, `ambiguous`, `document`, `no_skills` or
    `peer_timeout`."""


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


class FinishedToo(Struct, frozen=True, kw_only=True):
    """A further assignment that is off the encoder's hands."""

    assignment: str
    """The id of its event; that of the first is the `causationid` of the word itself."""
    request_id: str
    failed: str | None = None


class EncodeFinished(Payload, frozen=True, kw_only=True):
    """An encoder tells the router that an assignment is off its hands, or several are."""

    type: ClassVar[str] = "encode.finished"
    addressed: ClassVar[bool] = True

    request_id: str
    worker: str
    failed: str | None = None
    also: tuple[FinishedToo, ...] = ()
    """The further ones: only where each was assigned with `several`."""


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
