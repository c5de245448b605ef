"""What the router knows of skills: the directory of names and the semantic index, kept together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoRAError
from schemas import Role, SkillCard
from services.errors import CardDescriptionError
from services.router.errors import Refused
from services.router.index import SkillIndex
from services.router.names import Directory

__all__ = ["Skills"]

Embed = Callable[[str], Awaitable[NDArray[np.float32]]]


class Skills:
    """Installed cards and offers, by name and by meaning.

    The index is built when the first base vector tells how wide they are. A card without
    prototypes is found by its description, whose base vector `embed` gives.
    """

    def __init__(self, *, description_threshold: float, embed: Embed, log: Any) -> None:
        self.directory = Directory()
        self._threshold = description_threshold
        self._embed = embed
        self._log = log
        self._index: SkillIndex | None = None
        self._building = asyncio.Lock()

    async def index(self, dim: int) -> SkillIndex:
        """The semantic index over vectors of this width."""
        if self._index is None or self._index.dim != dim:
            async with self._building:
                if self._index is None or self._index.dim != dim:
                    await self._build(dim)
        index: SkillIndex | None = self._index
        if index is None:
            raise Refused("internal", "the index of skills could not be built")
        return index

    def routable(self, role: Role) -> bool:
        """Whether any text of this role may be routed to a skill."""
        if self._index is not None:
            return not self._index.empty(role)
        installed = self.directory.installed()
        return any(
            role in card.applies_to and card.threshold is not None for card in installed
        ) or any(role in offer.card.applies_to for offer in self.directory.offered())

    def install(self, card: SkillCard) -> bool:
        """Requests may use this card; whether it must be described before it is routed to."""
        self.directory.install(card)
        if self._index is None:
            return False
        if _by_description(card):
            return True
        self._add(self._index, card, None)
        return False

    async def describe(self, card: SkillCard) -> None:
        """Route to an installed card by its description."""
        vector = await self._described(card)
        if self._index is not None and vector is not None and card.digest in self.directory:
            self._add(self._index, card, vector)

    def retire(self, digest: str) -> None:
        """Requests may not use this card any more."""
        self.directory.retire(digest)
        if self._index is not None:
            self._index.remove(digest)

    def offer(self, card: SkillCard, peer: str) -> None:
        """A peer has this card."""
        new = self.directory.offer(card, peer)
        if new and self._index is not None and card.digest not in self.directory:
            self._offer(self._index, card)

    def withdraw(self, peer: str) -> None:
        """A peer is gone, and its offers with it."""
        for card in self.directory.withdraw(peer):
            if (
                self._index is not None
                and card.digest not in self.directory
                and self.directory.offer_of(card.digest) is None
            ):
                self._index.remove(card.digest)

    async def _build(self, dim: int) -> None:
        described: dict[str, NDArray[np.float32] | None] = {}
        # Newer cards may come in while descriptions are embedded: until none is missing.
        while missing := [
            card
            for card in self.directory.installed()
            if _by_description(card) and card.digest not in described
        ]:
            for card in missing:
                described[card.digest] = await self._described(card)
        index = SkillIndex(dim, self._threshold)
        for card in self.directory.installed():
            self._add(index, card, described.get(card.digest))
        for offer in self.directory.offered():
            self._offer(index, offer.card)
        self._index = index

    async def _described(self, card: SkillCard) -> NDArray[np.float32] | None:
        try:
            return await self._embed(card.description)
        except Refused as error:
            self._log.warning("description not embedded", skill=card.name, why=str(error))
            return None

    def _add(
        self, index: SkillIndex, card: SkillCard, description: NDArray[np.float32] | None
    ) -> None:
        try:
            index.install(card, description)
        except (CardDescriptionError, LoRAError) as error:
            # Still there by name; what cannot be understood is not routed to.
            self._log.warning("skill not indexed", skill=card.name, why=str(error))

    def _offer(self, index: SkillIndex, card: SkillCard) -> None:
        try:
            index.offer(card, self._threshold)
        except (CardDescriptionError, LoRAError) as error:
            self._log.warning("offer not indexed", skill=card.name, why=str(error))


def _by_description(card: SkillCard) -> bool:
    return not card.prototypes and card.threshold is not None and bool(card.description)
