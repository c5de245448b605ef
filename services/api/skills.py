"""`GET /v1/skills`: every card that the manager knows, one by any of its names, and its history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from schemas import (
    Event,
    ListedCard,
    SkillFetched,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    SkillRetired,
    TrainingRejected,
    TrainingRequested,
)
from services.api.answers import answer
from services.api.catalogue import Catalogue
from services.api.context import ApiContext, context_of
from services.api.errors import InvalidRequest
from services.api.operation import Operation, Query

__all__ = ["OPERATIONS", "Skill", "skill_of"]

PAGE = 500
"""Events read from the journal at a time."""

MOST = 1000
"""Entries of one answer, at most."""

_KINDS = (
    TrainingRequested,
    TrainingRejected,
    SkillPublished,
    SkillFetched,
    SkillInstalled,
    SkillRejected,
    SkillRetire,
    SkillRetired,
)


class Skill(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a skill."""

    name: str
    version: int
    digest: str
    state: str
    """`installed`, `kept` (an older version that can be named), `pending`, `retired` or
    `rejected`."""
    pinned: bool
    """Whether every encoder keeps it mapped."""
    routed: bool
    """Whether `auto` may choose it; otherwise it serves only where it is named."""
    description: str
    applies_to: tuple[str, ...]
    base_model: str
    """SHA-256 of the weights of the model that it bends."""
    rank: int
    bytes: int
    metrics: dict[str, float | int | None]
    """What the gate found: `before`, `after`, `gain` and its interval `low` to `high`, in
    `groups` of queries, after so many `attempts`."""
    created: str
    parents: tuple[str, ...]
    """Digests of the versions that it was made from."""
    signer: str | None
    """The author's public key; null: this node."""
    peer: str | None
    """From which peer it was fetched; null: it was made here."""


class SkillList(msgspec.Struct, frozen=True, kw_only=True):
    """Every version of every skill."""

    object: str = "list"
    data: tuple[Skill, ...]


class SkillVersions(Skill, frozen=True, kw_only=True):
    """The version that a name means, and all others of that name."""

    versions: tuple[Skill, ...]
    """The newest first; the one meant is among them."""


class Happening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that the journal tells of a skill; only what it told is there."""

    sequence: int
    time: datetime
    type: str
    """The event's type: `skill.published`, `training.rejected`, ..."""
    version: int | None = None
    digest: str | None = None
    task_id: str | None = None
    depth: str | None = None
    """What was trained: `head` or `body`."""
    reason: str | None = None
    metrics: dict[str, float | int | None] | None = None
    rows: int | None = None
    """Rows of the dataset that was trained on."""
    seconds: float | None = None
    origin: str | None = None
    peer: str | None = None
    successor: str | None = None
    """Digest of the version that took its place."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a skill, the oldest first."""

    name: str
    data: tuple[Happening, ...]
    truncated: bool
    """True where the journal has forgotten the beginning, or there was more than is shown."""


def skill_of(card: ListedCard) -> Skill:
    """A card as the API shows it: without prototypes, which are large and for routers."""
    return Skill(**_fields(card))


async def list_skills(request: Request) -> Response:
    """All cards, by name, the newest version first."""
    cards = await Catalogue.of(context_of(request).client)
    return answer(SkillList(data=tuple(map(skill_of, cards))))


async def show_skill(request: Request) -> Response:
    """One card by any of its names, beside its other versions."""
    cards = await Catalogue.of(context_of(request).client)
    card = cards.resolve(request.path_params["name"])
    others = tuple(skill_of(other) for other in cards if other.name == card.name)
    return answer(SkillVersions(**_fields(card), versions=others))


async def show_history(request: Request) -> Response:
    """What the journal tells of a skill."""
    context = context_of(request)
    name, limit = request.path_params["name"], _limit(request)
    found, truncated = await _happenings(context, name)
    if not found:
        (await Catalogue.of(context.client)).named(name)
    return answer(
        History(name=name, data=tuple(found[-limit:]), truncated=truncated or len(found) > limit)
    )


def _fields(card: ListedCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "version": card.version,
        "digest": card.digest,
        "state": card.state,
        "pinned": card.pinned,
        "routed": card.threshold is not None,
        "description": card.description,
        "applies_to": card.applies_to,
        "base_model": card.base_model.sha256,
        "rank": card.rank,
        "bytes": card.bytes,
        "metrics": card.metrics,
        "created": card.created,
        "parents": card.parents,
        "signer": card.signer,
        "peer": card.peer,
    }


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "100")
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST):
        raise InvalidRequest(f"limit must be from 1 to {MOST}, not {text[:40]!r}", param="limit")
    return int(text)


async def _happenings(context: ApiContext, name: str) -> tuple[list[Happening], bool]:
    found: list[Happening] = []
    truncated, after = False, 0
    while True:
        page = await context.bus.read(_KINDS, after=after, limit=PAGE)
        truncated = truncated or page.truncated
        found += [_happening(event) for event in page.events if _name(event.data) == name]
        if len(found) > 2 * MOST:
            truncated, found = True, found[-MOST:]
        if not page.events:
            return found, truncated
        after = page.events[-1].sequence or 0


def _name(data: Any) -> str:
    if isinstance(data, SkillPublished | SkillFetched | SkillInstalled):
        return data.card.name
    if isinstance(data, TrainingRequested | TrainingRejected):
        return data.skill
    return str(data.name)


def _happening(event: Event[Any]) -> Happening:
    data = event.data
    told: dict[str, Any] = {
        key: getattr(data, key, None)
        for key in (
            *("version", "digest", "task_id", "depth", "reason", "metrics"),
            *("seconds", "origin", "peer", "successor"),
        )
    }
    card = getattr(data, "card", None)
    if card is not None:
        told |= {"version": card.version, "digest": card.digest, "metrics": card.metrics}
    if isinstance(data, TrainingRequested):
        told["rows"] = data.dataset.rows
    return Happening(sequence=event.sequence or 0, time=event.time, type=event.type, **told)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/skills",
        list_skills,
        "read",
        "List skills",
        "Every version of every skill that the manager knows, whatever became of it.",
        gives=SkillList,
        tag="skills",
    ),
    Operation(
        "GET",
        "/v1/skills/{name:path}/history",
        show_history,
        "read",
        "What became of a skill",
        "From the journal: trainings, verdicts, versions, retirements; as far back as it is kept.",
        gives=History,
        query=(Query("limit", f"The last so many, 1 to {MOST}; not set: 100.", int),),
        tag="skills",
    ),
    Operation(
        "GET",
        "/v1/skills/{name:path}",
        show_skill,
        "read",
        "Show a skill",
        "By `name` (the version that serves), `name@3`, `sha256:…`, 12 of its hex digits, or "
        "`peer/name`.",
        gives=SkillVersions,
        tag="skills",
    ),
)
