"""Between a card file and what events say of it."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from lora.authors import Edition, moment
from lora.boundary import BOUNDARY, Boundary
from lora.card import LoRACard
from lora.errors import CardInvalidError
from schemas import BaseModelRef, SkillCard
from services.errors import CardDescriptionError

__all__ = ["boundary_of", "describe", "edition_of", "prototypes_of"]


def describe(card: LoRACard) -> SkillCard:
    """The event's description of a written or opened card (one with a digest).

    Without signer and signature, whatever the file's own strings say: who made a card is told by
    the event that brings it.
    """
    if card.digest is None or card.bytes is None:
        raise CardDescriptionError(f"card {card.name!r} has no digest: it was never written")
    rows = b"" if card.prototypes is None else card.prototypes.astype("<f4").tobytes()
    return SkillCard(
        name=card.name,
        version=card.version,
        digest=card.digest,
        bytes=card.bytes,
        rank=card.rank,
        alpha=card.alpha,
        target_modules=tuple(card.target_modules),
        base_model=BaseModelRef(id=card.base_model.id, sha256=card.base_model.sha256),
        applies_to=tuple(card.applies_to),
        description=card.description,
        prototypes=base64.b64encode(rows).decode(),
        threshold=card.threshold,
        metrics={
            key: value
            for key, value in card.metrics.items()
            if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        },
        created=card.created,
        parents=tuple(card.parents),
        boundary=card.extra.get(BOUNDARY, ""),
    )


def edition_of(card: SkillCard) -> Edition:
    """What decides between cards of one name; one without a signer is this node's own."""
    return Edition(card.signer, card.version, moment(card.created), card.digest)


def prototypes_of(card: SkillCard, dim: int) -> NDArray[np.float32] | None:
    """The routing prototypes (k, dim) of a described card, None where it has none."""
    if not card.prototypes:
        return None
    try:
        raw = base64.b64decode(card.prototypes, validate=True)
    except ValueError as e:  # letters that are none of base64's, and such as are no ASCII at all
        raise CardDescriptionError(f"the prototypes of {card.name!r} are not base64") from e
    if len(raw) % (4 * dim):
        raise CardDescriptionError(f"the prototypes of {card.name!r} are not rows of {dim} floats")
    rows = np.frombuffer(raw, dtype="<f4").reshape(-1, dim).astype(np.float32)
    if not np.isfinite(rows).all():
        raise CardDescriptionError(f"the prototypes of {card.name!r} are not finite")
    return rows


def boundary_of(card: SkillCard, dim: int) -> Boundary | None:
    """The boundary of a described card, None where it has none."""
    if not card.boundary:
        return None
    try:
        return Boundary.from_text(card.boundary, dim)
    except CardInvalidError as e:
        raise CardDescriptionError(f"card {card.name!r}: {e}") from e
