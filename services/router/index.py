"""Which skills a base vector calls for, in each role: the semantic index over described cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lora.boundary import BOUNDARY
from lora.card import LoRACard
from lora.router import Decision, LoRARouter
from schemas import Role, SkillCard
from services.runtime.cards import boundary_of, prototypes_of

__all__ = ["SkillIndex"]

ROLES: tuple[Role, ...] = ("query", "document")


@dataclass(frozen=True)
class _Described:
    """The fields of a card that the index reads: an event tells them, the weights stay away."""

    name: str
    version: int
    key: str
    threshold: float | None
    prototypes: NDArray[np.float32] | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)


class SkillIndex:
    """Installed cards and what peers offer, once with the offers and once without.

    Of each skill only the newest installed version is routed to. A card that does not apply to a
    role hides its older versions there. Raises `CardDescriptionError` or a `LoRAError` where a
    description makes no sense.
    """

    def __init__(self, dim: int, description_threshold: float) -> None:
        self.dim = dim
        self._local = {role: LoRARouter(dim) for role in ROLES}
        self._all = {role: LoRARouter(dim) for role in ROLES}
        for index in (*self._local.values(), *self._all.values()):
            index.description_threshold = description_threshold

    def install(self, card: SkillCard, description: NDArray[np.float32] | None = None) -> None:
        """Route to a card; `description` is the base vector (dim,) of its description."""
        points = prototypes_of(card, self.dim)
        for role in ROLES:
            applies = role in card.applies_to
            described: Any = _Described(
                name=card.name,
                version=card.version,
                key=card.digest,
                threshold=card.threshold if applies else None,
                prototypes=points if applies else None,
                metrics=card.metrics,
                extra={BOUNDARY: card.boundary} if card.boundary else {},
            )
            for index in (self._local[role], self._all[role]):
                index.register_card(
                    # The index reads nothing but what is described.
                    cast(LoRACard, described),
                    description_vector=description if applies else None,
                )

    def offer(self, card: SkillCard, floor: float) -> bool:
        """Route to a card that only a peer has, not below the cosine `floor`; whether it can be.

        Its threshold is a claim of the peer's, hence the floor.
        """
        points = prototypes_of(card, self.dim)
        if points is None or card.threshold is None:
            return False
        for role in ROLES:
            if role in card.applies_to:
                self._all[role].register_virtual_candidate(
                    card.name,
                    card.digest,
                    points,
                    threshold=card.threshold,
                    version=card.version,
                    floor=floor,
                    boundary=boundary_of(card, self.dim),
                )
        return True

    def remove(self, digest: str) -> None:
        """Forget a card; absent is no error."""
        for index in (*self._local.values(), *self._all.values()):
            index.remove_card(digest)

    def empty(self, role: Role) -> bool:
        """Whether nothing can be routed to in this role."""
        return not self._all[role].routed()

    def decide(
        self, role: Role, vectors: NDArray[np.float32], top_k: int, *, offers: bool = True
    ) -> list[Decision]:
        """The skills that answer each row of (n, dim), the nearest first, or why none does;
        without `offers` only those that are installed here."""
        index = self._all[role] if offers else self._local[role]
        return index.decide(vectors, top_k)
