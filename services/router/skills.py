"""What the router knows of skills: the directory of names and the semantic index, kept together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoRAError
from schemas import Role, SkillCard
from services.errors import CardDescriptionError
from services.router.errors import OfferRefused, Refused
from services.router.names import Directory
from services.router.offers import Offers
from services.runtime.skill_index import SkillIndex, applies

__all__ = ["Skills"]

BREATH: Final = 8
"""Offers that are indexed before others get their turn."""

Embed = Callable[[str], Awaitable[NDArray[np.float32]]]


class Skills:
    """Installed cards and offers, by name and by meaning.

    The index is built when the first base vector tells how wide they are. A card of this node's own
    without prototypes is found by its description, whose base vector `embed` gives.
    """

    def __init__(
        self,
        *,
        description_threshold: float,
        embed: Embed,
        log: Any,
        offers: Offers | None = None,
        patience: float = 32.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`patience` is the time in seconds after which an offer that is not repeated is over."""
        self.directory = Directory(offers)
        self._threshold = description_threshold
        self._embed = embed
        self._log = log
        self._patience = patience
        self._clock = clock
        self._index: SkillIndex | None = None
        self._built = 0
        """The width of the index that is complete."""
        self._building = asyncio.Lock()
        self._refused: set[str] = set()

    async def index(self, dim: int) -> SkillIndex:
        """The semantic index over vectors of this width."""
        if self._built != dim:
            async with self._building:
                if self._built != dim:
                    await self._build(dim)
        index: SkillIndex | None = self._index
        if index is None:
            raise Refused("internal", "the index of skills could not be built")
        return index

    def routable(self, role: Role) -> bool:
        """Whether any text of this role may be routed to a skill."""
        if self._index is not None and self._built:
            return not self._index.empty(role)
        if any(
            applies(card, role)
            and card.threshold is not None
            and (card.prototypes or (card.signer is None and card.description))
            for card in self.directory.installed()
        ):
            return True
        return role == "query" and any(
            "query" in card.applies_to and card.threshold is not None and card.prototypes
            for card, _ in self.directory.offered()
        )

    def install(self, card: SkillCard, peer: str | None = None) -> bool:
        """Requests may use this card, which came from `peer`; whether it must be described before
        it is routed to."""
        new = card.digest not in self.directory
        self.directory.install(card, peer)
        if self._index is None:
            return False
        if _by_description(card):
            if new:  # no longer as a peer may have described it
                self._index.remove(card.digest)
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
        self.directory.offers.forget(digest)  # it would be rejected
        if self._index is not None:
            self._index.remove(digest)

    def offer(self, card: SkillCard, peer: str) -> None:
        """A peer has this card."""
        try:
            new = self.directory.offers.put(card, peer, self._clock())
        except OfferRefused as error:
            self._say_refused(peer, error)
            return
        if new and self._index is not None:
            self._describe_offer(self._index, card.digest)

    def withdraw(self, peer: str) -> None:
        """A peer is gone, and its offers with it."""
        self._over(self.directory.offers.drop(peer))
        self._refused.discard(peer)

    def expire(self) -> None:
        """Take back the offers that were not repeated."""
        self._over(self.directory.offers.expire(self._clock() - self._patience))

    def _over(self, cards: Iterable[SkillCard]) -> None:
        if self._index is None:
            return
        digests = [it for it in {card.digest for card in cards} if it not in self.directory]
        self._index.remove(*digests)
        for digest in digests:  # as another peer describes it, where there is one
            self._describe_offer(self._index, digest)

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
        # From here on what comes and goes finds its way into the index by itself.
        self._index, self._built = index, 0
        for number, card in enumerate(self.directory.installed()):
            if card.digest in self.directory:
                self._add(index, card, described.get(card.digest))
            if number % BREATH == 0:
                await asyncio.sleep(0)
        for number, digest in enumerate({it.card.digest for it in self.directory.offered()}):
            self._describe_offer(index, digest)
            if number % BREATH == 0:
                await asyncio.sleep(0)
        self._built = dim

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
            index.remove(card.digest)
            self._log.warning("skill not indexed", skill=card.name, why=str(error))

    def _describe_offer(self, index: SkillIndex, digest: str) -> None:
        """Route to an offered card as the first peer that offers it describes it."""
        for offer in self.directory.offers_of(digest)[:1]:
            try:
                index.offer(offer.card)
            except (CardDescriptionError, LoRAError) as error:
                self._say_refused(str(offer.peer), error)

    def _say_refused(self, peer: str, error: Exception) -> None:
        """Once a peer: what is refused is offered again and again."""
        if peer not in self._refused and len(self._refused) < 256:
            self._refused.add(peer)
            self._log.warning("offer not heeded", peer=peer[:80], why=str(error))


def _by_description(card: SkillCard) -> bool:
    """Whether it is found by its description: this node's own only, for others it is a claim."""
    own = card.signer is None and card.threshold is not None
    return own and not card.prototypes and bool(card.description)
