"""What peers offer, as this node judges it: what is accepted, and why the rest is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from schemas import SkillCard
from services.federation.errors import CardRefused
from services.federation.limits import Ration

__all__ = ["Offers", "Refusal"]

Cards = tuple[SkillCard, ...]

REMEMBERED: Final = 4096
"""Refusals that are told once only."""

TOLD: Final = 512
"""Refusals that are told in an hour: the journal keeps each of them."""
TOLD_EACH: Final = 64
"""Of one peer."""


class Refusal(NamedTuple):
    """An offer that is not heeded."""

    peer: str
    card: SkillCard
    error: CardRefused


class Verdict(NamedTuple):
    """What is thought of one peer's offers."""

    peer: str
    cards: Cards
    refused: Mapping[str, CardRefused]
    """By digest."""


class Offers:
    """Accepted offers by peer; a refusal is told once, and of very many not each.

    `judge` takes its time and may be called in a thread; the others belong to one thread.
    """

    def __init__(
        self,
        refusal: Callable[[SkillCard], CardRefused | None],
        ration: Ration | None = None,
    ) -> None:
        self._refusal = refusal
        self._ration = ration or Ration(TOLD, TOLD_EACH, 3600.0)
        self._claimed: dict[str, Cards] = {}
        self._accepted: dict[str, Cards] = {}
        self._told: dict[tuple[str, str, str], None] = {}

    def judge(self, peer: str, cards: Iterable[SkillCard]) -> Verdict:
        """Look at offers; nothing comes of it yet."""
        every = tuple(cards)
        found = ((card.digest, self._refusal(card)) for card in every)
        return Verdict(peer, every, {digest: why for digest, why in found if why is not None})

    def put(self, peer: str, cards: Iterable[SkillCard]) -> tuple[Refusal, ...]:
        """What a peer offers now, in place of what it did; the refusals that are news."""
        return self.heed(self.judge(peer, cards))

    def heed(self, verdict: Verdict) -> tuple[Refusal, ...]:
        """The same for offers that were judged before."""
        self._claimed[verdict.peer] = verdict.cards
        return self._news(verdict)

    def heed_again(self, verdict: Verdict) -> tuple[Refusal, ...]:
        """The same for old offers that were judged anew, unless there are others by now."""
        if self._claimed.get(verdict.peer) is not verdict.cards:
            return ()
        return self._news(verdict)

    def remove(self, peer: str) -> None:
        """A peer is gone."""
        self._claimed.pop(peer, None)
        self._accepted.pop(peer, None)

    def claimed(self) -> tuple[tuple[str, Cards], ...]:
        """All that is offered, accepted or not, by peer."""
        return tuple(self._claimed.items())

    def all(self) -> tuple[tuple[str, SkillCard], ...]:
        """Every accepted offer: the peer and the card."""
        return tuple((peer, card) for peer, cards in self._accepted.items() for card in cards)

    def by(self, peer: str) -> tuple[tuple[str, SkillCard], ...]:
        """The accepted offers of one peer."""
        return tuple((peer, card) for card in self._accepted.get(peer, ()))

    def of(self, digest: str) -> tuple[tuple[str, SkillCard], ...]:
        """The accepted offers of one card."""
        return tuple(offer for offer in self.all() if offer[1].digest == digest)

    def _news(self, verdict: Verdict) -> tuple[Refusal, ...]:
        peer, cards, refused = verdict
        self._accepted[peer] = tuple(card for card in cards if card.digest not in refused)
        news = [
            Refusal(peer, card, refused[card.digest])
            for card in cards
            if card.digest in refused and self._is_news(peer, card, refused[card.digest])
        ]
        while len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        return tuple(news)

    def _is_news(self, peer: str, card: SkillCard, error: CardRefused) -> bool:
        key = (peer, card.digest, str(error))
        if key in self._told or not self._ration.take(peer):
            return False
        self._told[key] = None
        return True
