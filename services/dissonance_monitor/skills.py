"""The skills that are installed, as far as the monitor needs them: where their queries lie."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lora.authors import foremost
from lora.errors import LoRAError
from lora.head import normalize
from schemas import SkillCard
from services.errors import CardDescriptionError
from services.runtime.cards import edition_of, prototypes_of
from services.runtime.skill_index import SkillIndex

__all__ = ["Nearest", "Skills"]

Vector = npt.NDArray[np.float32]


class Nearest(NamedTuple):
    """How a query lies to the skills there are."""

    novelty: float | None
    """Best cosine to any prototype of any skill; None where no skill has prototypes."""
    domain: str | None
    """The skill that routing gives it to, or the nearest where that is anybody's guess."""


class Skills:
    """Of each skill the card that its name means, found by the router's own rules; torch-free.

    What other authors say of their cards is heeded as far as the router heeds it: a card that is
    not routed to there makes no query less novel. This node's own do, for named use only or not.
    """

    def __init__(self, floor: float) -> None:
        """`floor` is the router's `description_threshold`."""
        self._floor = floor
        self._cards: dict[str, SkillCard] = {}  # by digest, in the order in which they came
        self._index: SkillIndex | None = None
        self._waiting: dict[str, SkillCard] = {}
        """Those that are not in the index yet."""
        self._named: Vector | None = None
        """(p, dim) prototypes of this node's own cards for named use only; None: to be found."""

    def learn(self, card: SkillCard) -> None:
        """A version was installed."""
        self._cards[card.digest] = self._waiting[card.digest] = card
        self._named = None

    def forget(self, digest: str) -> None:
        """A version was retired; the one before it counts again."""
        self._cards.pop(digest, None)
        self._waiting.pop(digest, None)
        self._named = None
        if self._index is not None:
            self._index.remove(digest)

    async def nearest(self, vectors: Vector) -> list[Nearest]:
        """Where each base vector (n, dim) of a query lies."""
        dim = vectors.shape[1]
        index = self._index
        if index is None or index.dim != dim:
            index = self._index = SkillIndex(dim, self._floor)
            self._waiting, self._named = dict(self._cards), None
        while self._waiting:
            _install(index, self._waiting.pop(next(iter(self._waiting))))
            await asyncio.sleep(0)  # one of another author's is compared with all that are there
        if self._named is None:
            self._named = self._for_named_use(dim)
        best = index.scores("query", vectors)
        if len(self._named):
            best = np.maximum(best, (normalize(vectors) @ self._named.T).max(axis=1))
        skills = index.nearest("query", vectors)
        return [
            Nearest(float(score) if score > -1 else None, None if skill is None else skill.name)
            for score, skill in zip(best, skills, strict=True)
        ]

    def _for_named_use(self, dim: int) -> Vector:
        names: dict[str, list[SkillCard]] = {}
        for card in self._cards.values():
            names.setdefault(card.name, []).append(card)
        rows = [np.zeros((0, dim), np.float32)]
        for cards in names.values():
            meant = foremost(cards, edition_of)
            if meant is not None and meant.signer is None and meant.threshold is None:
                with contextlib.suppress(CardDescriptionError):
                    points = prototypes_of(meant, dim)
                    rows += [] if points is None else [normalize(points)]
        return np.concatenate(rows)


def _install(index: SkillIndex, card: SkillCard) -> None:
    # What makes no sense is not routed to: it was made for another model, and no query lies near.
    with contextlib.suppress(CardDescriptionError, LoRAError):
        index.install(card)
