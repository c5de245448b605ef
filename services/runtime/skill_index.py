"""Which skills a base vector calls for, in each role: the semantic index over described cards."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lora.boundary import BOUNDARY
from lora.card import LoRACard
from lora.card_checks import MAX_PROTOTYPES
from lora.errors import LoRAError
from lora.router import Decision, LoRARouter, Match
from schemas import Role, SkillCard
from services.errors import CardDescriptionError
from services.runtime.cards import boundary_of, prototypes_of

__all__ = ["SkillIndex", "applies", "claims"]

ROLES: tuple[Role, ...] = ("query", "document")


def applies(card: SkillCard, role: Role) -> bool:
    """Whether routing alone may choose the card in this role: one of another author's never bends
    documents unless it is named, so that stored vectors stay valid."""
    return role in card.applies_to and (card.signer is None or role == "query")


@dataclass(frozen=True)
class _Described:
    """The fields of a card that the index reads: an event tells them, the weights stay away."""

    name: str
    version: int
    key: str
    created: str
    threshold: float | None
    prototypes: NDArray[np.float32] | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)


class SkillIndex:
    """Installed cards and what peers offer.

    Of each skill only the newest installed version is routed to. A card that does not apply to a
    role hides its older versions there. What other authors say of where their cards belong is a
    claim: `LoRARouter` checks it, and it is not heeded below the configured threshold. Raises
    `CardDescriptionError` or a `LoRAError` where a description makes no sense.
    """

    def __init__(self, dim: int, description_threshold: float) -> None:
        self.dim = dim
        self._floor = description_threshold
        self._routers = {role: LoRARouter(dim) for role in ROLES}
        for router in self._routers.values():
            router.description_threshold = description_threshold

    def install(self, card: SkillCard, description: NDArray[np.float32] | None = None) -> None:
        """Route to a card; `description` is the base vector (dim,) of its description, which one
        of another author's is not found by."""
        _check_threshold(card)
        points = prototypes_of(card, self.dim)
        for role, router in self._routers.items():
            here = applies(card, role)
            described: Any = _Described(
                name=card.name,
                version=card.version,
                key=card.digest,
                created=card.created,
                threshold=card.threshold if here else None,
                prototypes=points if here else None,
                metrics=card.metrics,
                extra={BOUNDARY: card.boundary} if card.boundary else {},
            )
            router.register_card(
                # The index reads nothing but what is described.
                cast(LoRACard, described),
                description_vector=description if here else None,
                floor=None if card.signer is None else self._floor,
                author=card.signer,
            )

    def offer(self, card: SkillCard) -> bool:
        """Route to a card that only a peer has; whether it can be."""
        points = prototypes_of(card, self.dim)
        if points is None or card.threshold is None:
            return False
        _check_threshold(card)
        if len(points) > MAX_PROTOTYPES:
            raise CardDescriptionError(
                f"{card.name!r} has {len(points)} prototypes, {MAX_PROTOTYPES} are allowed"
            )
        if "query" not in card.applies_to:  # documents are not bent upon a claim
            return False
        self._routers["query"].register_virtual_candidate(
            card.name,
            card.digest,
            points,
            threshold=card.threshold,
            version=card.version,
            floor=self._floor,
            boundary=boundary_of(card, self.dim),
            author=card.signer or "",
            created=card.created,
        )
        return True

    def remove(self, *digests: str) -> None:
        """Forget cards; absent is no error."""
        for router in self._routers.values():
            router.remove_card(*digests)

    def least(self, role: Role, digest: str) -> float:
        """The cosine from which on a card is routed to; infinite where it is not."""
        return self._routers[role].least(digest)

    def scores(self, role: Role, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) the best cosine of each row of (n, dim) to what can be routed to; -1 with none."""
        return self._routers[role].scores(vectors)

    def empty(self, role: Role) -> bool:
        """Whether nothing can be routed to in this role."""
        return self._routers[role].empty

    def decide(
        self,
        role: Role,
        vectors: NDArray[np.float32],
        top_k: int,
        *,
        offers: bool = True,
        without: Collection[str] = (),
    ) -> list[Decision]:
        """The skills that answer each row of (n, dim), the nearest first, or why none does;
        without `offers` only those that are installed here, else all but the offers `without`."""
        return self._routers[role].decide(vectors, top_k, offers=offers, without=without)

    def nearest(self, role: Role, vectors: NDArray[np.float32]) -> list[Match | None]:
        """Of each row of (n, dim) the installed skill that answers, or the nearest of those that
        might where it is anybody's guess."""
        router = self._routers[role]
        found: list[Match | None] = []
        for row, decision in zip(vectors, router.decide(vectors, offers=False), strict=True):
            hits = iter(decision.matches)
            if decision.reason == "ambiguous":
                hits = (hit for hit in router.select(row, len(router)) if not hit.virtual)
            found.append(next(hits, None))
        return found


def _check_threshold(card: SkillCard) -> None:
    if card.threshold is not None and not -1 <= card.threshold <= 1:
        raise CardDescriptionError(f"the threshold of {card.name!r} is {card.threshold}: no cosine")


def claims(cards: Iterable[SkillCard], dim: int, floor: float) -> dict[str, float]:
    """Of other authors' cards among these the cosine from which on queries are routed to them, by
    digest; at most 1, which is never, and nothing of those for named use only.

    `cards` in the order in which they were installed; `floor` is the router's
    `description_threshold`. This node's own cards that are found by their description alone are not
    heeded.
    """
    index = SkillIndex(dim, floor)
    foreign = []
    for card in cards:
        with contextlib.suppress(CardDescriptionError, LoRAError):  # nor does the router heed it
            index.install(card)
            if card.signer is not None and card.threshold is not None:
                foreign.append(card)
    return {card.digest: min(1.0, index.least("query", card.digest)) for card in foreign}
