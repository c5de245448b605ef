"""What peers offer, as this node judges it: what is accepted, and why the rest is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from schemas import SkillCard
from services.federation.errors import CardRefused

__all__ = ["Offers", "Refusal"]

REMEMBERED: Final = 4096
"""Refusals that are told once only."""


class Refusal(NamedTuple):
    """An offer that is not heeded."""

    peer: str
    card: SkillCard
    error: CardRefused


class Offers:
    """Accepted offers by peer; a refusal is told once."""

    def __init__(self, refusal: Callable[[SkillCard], CardRefused | None]) -> None:
        self._refusal = refusal
        self._claimed: dict[str, tuple[SkillCard, ...]] = {}
        self._accepted: dict[str, tuple[SkillCard, ...]] = {}
        self._told: dict[tuple[str, str, str], None] = {}

    def put(self, peer: str, cards: Iterable[SkillCard]) -> tuple[Refusal, ...]:
        """What a peer offers now, in place of what it did; the refusals that are news."""
        self._claimed[peer] = tuple(cards)
        return self._judge(peer)

    def remove(self, peer: str) -> None:
        """A peer is gone."""
        self._claimed.pop(peer, None)
        self._accepted.pop(peer, None)

    def again(self) -> tuple[Refusal, ...]:
        """Judge all anew: the trust list has changed. The refusals that are news."""
        return tuple(news for peer in tuple(self._claimed) for news in self._judge(peer))

    def all(self) -> tuple[tuple[str, SkillCard], ...]:
        """Every accepted offer: the peer and the card."""
        return tuple((peer, card) for peer, cards in self._accepted.items() for card in cards)

    def by(self, peer: str) -> tuple[tuple[str, SkillCard], ...]:
        """The accepted offers of one peer."""
        return tuple((peer, card) for card in self._accepted.get(peer, ()))

    def of(self, digest: str) -> tuple[tuple[str, SkillCard], ...]:
        """The accepted offers of one card."""
        return tuple(offer for offer in self.all() if offer[1].digest == digest)

    def _judge(self, peer: str) -> tuple[Refusal, ...]:
        accepted, news = [], []
        for card in self._claimed[peer]:
            error = self._refusal(card)
            if error is None:
                accepted.append(card)
                continue
            key = (peer, card.digest, str(error))
            if key not in self._told:
                self._told[key] = None
                news.append(Refusal(peer, card, error))
        while len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        self._accepted[peer] = tuple(accepted)
        return tuple(news)
