"""The cards that the manager lists, in order and by name, as the router understands names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Final, Self

from lora.authors import foremost
from schemas import ListedCard
from services.api.errors import NotFound
from services.runtime.cards import edition_of
from services.runtime.client import FleetClient

__all__ = ["Catalogue"]

SERVING: Final = frozenset({"installed", "kept"})
"""The states of a card that a request may name."""

_DIGEST: Final = re.compile(r"(?:sha256:([0-9a-f]{12,64})|([0-9a-f]{12,64}))")
_NAMED: Final = re.compile(r"(?:(?P<peer>[^@/]+)/)?(?P<name>[^@/]+)(?:@(?P<version>[1-9]\d{0,9}))?")


PATIENCE: Final = 5.0
"""Seconds within which the manager must have answered."""


class Catalogue:
    """The cards by name, the newest version of each first."""

    def __init__(self, cards: Iterable[ListedCard]) -> None:
        self._cards = sorted(
            cards, key=lambda card: (card.name, -card.version, card.signer or "", card.digest)
        )

    @classmethod
    async def of(cls, client: FleetClient) -> Self:
        """As the manager lists them now; raises `bus.RequestTimeout`."""
        return cls(await client.skills(timeout=PATIENCE))

    def __iter__(self) -> Iterator[ListedCard]:
        return iter(self._cards)

    def foremost(self) -> tuple[ListedCard, ...]:
        """Of each name that serves, the card that the plain name means."""
        names = dict.fromkeys(card.name for card in self._cards if card.state in SERVING)
        return tuple(self._meant(self.named(name)) for name in names)

    def named(self, name: str) -> list[ListedCard]:
        """Every card of a name; raises `NotFound`, naming what is known nearby."""
        found = [card for card in self._cards if card.name == name]
        if not found:
            raise self._unknown(name, name, "name")
        return found

    def resolve(self, text: str, *, param: str = "name") -> ListedCard:
        """The card that one of wire.md's names means; one that serves goes before any other.

        Raises `NotFound`.
        """
        named = _NAMED.fullmatch(text)
        found = [
            card
            for card in self._cards
            if named is not None
            and card.name == named["name"]
            and named["version"] in (None, str(card.version))
            and named["peer"] in (None, card.peer)
        ]
        digest = _DIGEST.fullmatch(text)
        if digest is not None and not found:
            start = "sha256:" + (digest[1] or digest[2])
            found = [card for card in self._cards if card.digest.startswith(start)]
        if not found:
            raise self._unknown(text, named["name"] if named is not None else text, param)
        return self._meant(found)

    @staticmethod
    def _meant(cards: list[ListedCard]) -> ListedCard:
        serving = [card for card in cards if card.state in SERVING]
        return foremost(serving or cards, edition_of) or cards[0]

    def _unknown(self, text: str, name: str, param: str) -> NotFound:
        names = sorted({card.name for card in self._cards})
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "GET /v1/skills lists all"
        )
        return NotFound(f"there is no skill {text!r}: {hint}", param=param, code="model_not_found")
