"""What peers offer: bounded for each peer and in all, and forgotten where it is not repeated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from schemas import SkillCard
from services.router.errors import OfferRefused
from services.runtime.settings_federation import NODE

__all__ = ["MAX_POINTS", "MAX_WORDS", "Found", "Offers"]

MAX_WORDS: Final = 16 << 10
"""Bytes of JSON of an offered card without its points; a card of this project has some hundreds."""

MAX_POINTS: Final = 12 << 20
"""Characters of prototypes and boundaries that are kept of one peer: 256 cards of 16 prototypes in
384 dimensions have 9 MiB. Cards beyond are known by name."""

_NODE: Final = re.compile(NODE)


class Found(NamedTuple):
    """The card that a name leads to; `peer` where only that peer has it."""

    card: SkillCard
    peer: str | None = None


@dataclass
class _Offer:
    card: SkillCard
    seen: float


class Offers:
    """Cards by peer and by digest; a card is kept as the peer first described it."""

    def __init__(self, max_peers: int = 64, max_cards: int = 256) -> None:
        self._max_peers = max_peers
        self._max_cards = max_cards
        self._peers: dict[str, dict[str, _Offer]] = {}
        self._digests: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[Found]:
        for peer, cards in self._peers.items():
            for offer in cards.values():
                yield Found(offer.card, peer)

    def put(self, card: SkillCard, peer: str, at: float) -> bool:
        """A peer has this card, at this time; whether that is news. Raises `OfferRefused`."""
        cards = self._peers.get(peer, {})
        known = cards.get(card.digest)
        if known is not None:
            known.seen = at
            return False
        if _NODE.fullmatch(peer) is None:
            raise OfferRefused(f"{peer[:80]!r} is no name of a peer")
        if peer not in self._peers and len(self._peers) >= self._max_peers:
            raise OfferRefused(f"{self._max_peers} peers are heeded, {peer!r} is one more")
        if len(cards) >= self._max_cards:
            raise OfferRefused(f"{self._max_cards} cards are heeded of {peer!r}, it offers more")
        kept = self._kept(card, peer, cards)
        self._peers.setdefault(peer, cards)[card.digest] = _Offer(kept, at)
        self._digests.setdefault(card.digest, []).append(peer)
        return True

    def drop(self, peer: str) -> tuple[SkillCard, ...]:
        """A peer is gone; what it offered."""
        cards = tuple(offer.card for offer in self._peers.get(peer, {}).values())
        for card in cards:
            self._forget(peer, card.digest)
        return cards

    def forget(self, digest: str) -> None:
        """A card is wanted no more, whoever offers it."""
        for peer in tuple(self._digests.get(digest, ())):
            self._forget(peer, digest)

    def expire(self, before: float) -> tuple[SkillCard, ...]:
        """Forget what was last offered before this time; one card for each offer forgotten."""
        late = [
            (peer, offer.card)
            for peer, cards in self._peers.items()
            for offer in cards.values()
            if offer.seen < before
        ]
        for peer, card in late:
            self._forget(peer, card.digest)
        return tuple(card for _, card in late)

    def by_peer(self, peer: str) -> tuple[SkillCard, ...]:
        """What a peer offers."""
        return tuple(offer.card for offer in self._peers.get(peer, {}).values())

    def by_digest(self, digest: str) -> tuple[Found, ...]:
        """Who offers this card, the first who did first."""
        peers = self._digests.get(digest, ())
        return tuple(Found(self._peers[peer][digest].card, peer) for peer in peers)

    def _forget(self, peer: str, digest: str) -> None:
        del self._peers[peer][digest]
        if not self._peers[peer]:
            del self._peers[peer]
        self._digests[digest].remove(peer)
        if not self._digests[digest]:
            del self._digests[digest]

    def _kept(self, card: SkillCard, peer: str, cards: dict[str, _Offer]) -> SkillCard:
        """What routing and fetching need of an offer."""
        words = msgspec.structs.replace(
            card,
            description="",
            prototypes="",
            boundary="",
            target_modules=(),
            metrics={},
            parents=(),
            signature=None,
        )
        size = len(msgspec.json.encode(words))
        if size > MAX_WORDS:
            raise OfferRefused(
                f"{peer!r} describes {card.name!r} in {size} bytes, {MAX_WORDS} are heeded"
            )
        points = sum(_points(offer.card) for offer in cards.values())
        if points + _points(card) > MAX_POINTS:
            return words
        return msgspec.structs.replace(words, prototypes=card.prototypes, boundary=card.boundary)


def _points(card: SkillCard) -> int:
    return len(card.prototypes) + len(card.boundary)
