"""What events say of a skill card; the card itself is a file named by its digest."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.base import Digest, Name, Struct, Version

__all__ = ["AppliedSkill", "BaseModelRef", "ListedCard", "SkillCard", "SkillRef"]


class BaseModelRef(Struct, frozen=True, kw_only=True):
    """The embedding model that a card bends."""

    id: str
    sha256: str
    """SHA-256 of its weights, 64 hex digits."""


class SkillCard(Struct, frozen=True, kw_only=True):
    """The description of a skill card, complete enough to route to it without its weights."""

    name: Name
    version: Version
    digest: Digest
    bytes: int
    """Size of the card's file."""
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    base_model: BaseModelRef
    applies_to: tuple[str, ...]
    """`query`, `document` or both."""
    description: str
    prototypes: str
    """Base64 of little-endian float32 rows in the base space; empty where the card has none."""
    threshold: float | None
    """Cosine from which a query is routed to the skill; null: for named use only."""
    metrics: dict[str, float | int | None]
    created: str
    parents: tuple[str, ...]
    boundary: str = ""
    """Base64 of a plane in the base space that the skill's queries lie beyond: its offset
    (little-endian float32), then its unit normal (float16); empty where the card has none."""
    signer: str | None = None
    """The author's public key; null: this node's own card."""
    signature: str | None = None


class ListedCard(SkillCard, frozen=True, kw_only=True):
    """A card with its state in the manager's store."""

    state: str
    """`installed`, `kept` (an older version), `pending`, `retired` or `rejected`."""
    peer: str | None = None
    """From which peer it was fetched; null where it was published here."""
    pinned: bool = False
    """Encoders are told to keep it in memory."""


class SkillRef(Struct, frozen=True, kw_only=True):
    """One card of an assignment."""

    digest: Digest
    name: Name
    version: Version


class AppliedSkill(Struct, frozen=True, kw_only=True):
    """A card that made a row, and how well the row's text matched it."""

    name: Name
    version: Version
    digest: Digest
    score: Annotated[float, Meta(description="Routing score; 1 where it was named.")]
