"""What is said of skills and of the cards that encoders map."""

from __future__ import annotations

from typing import ClassVar, Literal

from schemas.base import Digest, Lane, Name, Payload, Version
from schemas.cards import ListedCard, SkillCard

__all__ = [
    "AdapterFailed",
    "AdapterLoad",
    "AdapterLoaded",
    "AdapterUnload",
    "AdapterUnloaded",
    "SkillDiscovered",
    "SkillFetched",
    "SkillInstalled",
    "SkillListRequested",
    "SkillListed",
    "SkillPin",
    "SkillPublished",
    "SkillRejected",
    "SkillRetire",
    "SkillRetired",
    "SkillUnavailable",
    "SkillWanted",
]


class SkillPublished(Payload, frozen=True, kw_only=True):
    """A card passed the gate and lies in the store."""

    type: ClassVar[str] = "skill.published"
    lane: ClassVar[Lane] = Lane.DURABLE

    card: SkillCard
    origin: str
    """The node, or the person, that made it."""
    task_id: str | None = None
    depth: Literal["head", "body"] | None = None
    """What was trained."""
    schedule: str | None = None
    """When it was to be trained: `at_once`, `quiet` or `cron`."""
    attempts: int | None = None
    """Candidates judged since the version before was published, this and outdated ones included."""
    seconds: float | None = None
    """What training and gate took; null where there was no verdict."""


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
    peer: str | None = None
    """From which peer it was fetched; null where it was published here."""


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


class SkillPin(Payload, frozen=True, kw_only=True):
    """Somebody asks that encoders keep a version in memory, or need not any more."""

    type: ClassVar[str] = "skill.pin"
    lane: ClassVar[Lane] = Lane.DURABLE

    name: Name
    version: Version
    digest: Digest
    pinned: bool


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
    """True: and keep it; false: it need not be kept any more; absent: nothing is said of that."""


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
