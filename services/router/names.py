"""What a skill's name on the wire means: the directory of installed and offered cards."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from schemas import SkillCard
from services.router.errors import UnknownSkill

__all__ = ["Directory", "Found"]

_DIGEST: Final = re.compile(r"(?:sha256:([0-9a-f]{12,64})|([0-9a-f]{12,64}))")
_NAMED: Final = re.compile(r"(?P<name>[^@/]+)(?:@(?P<version>[1-9][0-9]{0,9}))?")


class Found(NamedTuple):
    """The card that a name leads to; `peer` where only that peer has it."""

    card: SkillCard
    peer: str | None = None


class Directory:
    """The cards that requests may use, by name, version and digest, and what peers offer."""

    def __init__(self) -> None:
        self._installed: dict[str, SkillCard] = {}
        self._versions: dict[str, dict[int, str]] = {}
        self._offered: dict[str, dict[str, SkillCard]] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._installed

    def __len__(self) -> int:
        return len(self._installed)

    def install(self, card: SkillCard) -> None:
        """From now on requests may use this card."""
        self._installed[card.digest] = card
        self._versions.setdefault(card.name, {})[card.version] = card.digest

    def retire(self, digest: str) -> SkillCard | None:
        """From now on they may not; the card, if it was installed."""
        card = self._installed.pop(digest, None)
        if card is not None:
            versions = self._versions[card.name]
            if versions.get(card.version) == digest:
                del versions[card.version]
            if not versions:
                del self._versions[card.name]
        return card

    def offer(self, card: SkillCard, peer: str) -> bool:
        """A peer has this card; whether that is news."""
        cards = self._offered.setdefault(peer, {})
        new = card.digest not in cards
        cards[card.digest] = card
        return new

    def withdraw(self, peer: str) -> tuple[SkillCard, ...]:
        """A peer is gone; what it offered."""
        return tuple(self._offered.pop(peer, {}).values())

    def newest(self, name: str) -> SkillCard | None:
        """The newest installed version of a skill."""
        versions = self._versions.get(name)
        return None if not versions else self._installed[versions[max(versions)]]

    def get(self, digest: str) -> SkillCard | None:
        """The installed card of this digest."""
        return self._installed.get(digest)

    def installed(self) -> tuple[SkillCard, ...]:
        """Every installed card, the older versions too."""
        return tuple(self._installed.values())

    def offered(self) -> tuple[Found, ...]:
        """Every card that a peer offers and that is not installed here."""
        return tuple(
            Found(card, peer)
            for peer, cards in self._offered.items()
            for card in cards.values()
            if card.digest not in self._installed
        )

    def offer_of(self, digest: str) -> Found | None:
        """Who offers this card, if anybody does."""
        return next((found for found in self.offered() if found.card.digest == digest), None)

    def resolve(self, text: str) -> Found:
        """The card that `name`, `name@3`, `sha256:…`, 12 of its digits or `peer/name` means.

        Raises `UnknownSkill`, naming what is known nearby.
        """
        peer, slash, rest = text.rpartition("/")
        if slash:
            return self._of_peer(text, peer, rest)
        named = _NAMED.fullmatch(text)
        if named is not None and named["name"] in self._versions:
            return Found(self._version(text, named["name"], named["version"]))
        digits = _DIGEST.fullmatch(text)
        if digits is not None:
            return self._by_digits(text, digits[1] or digits[2])
        raise UnknownSkill(self._unknown(text, named["name"] if named is not None else text))

    def _version(self, text: str, name: str, version: str | None) -> SkillCard:
        versions = self._versions[name]
        digest = versions.get(int(version) if version else max(versions))
        if digest is None:
            raise UnknownSkill(
                f"skill {text!r} is not installed: of {name!r} there are the versions "
                f"{', '.join(map(str, sorted(versions)))}"
            )
        return self._installed[digest]

    def _by_digits(self, text: str, digits: str) -> Found:
        start = "sha256:" + digits
        here = [card for digest, card in self._installed.items() if digest.startswith(start)]
        there = [found for found in self.offered() if found.card.digest.startswith(start)]
        found = {card.digest: Found(card) for card in here} or {
            offer.card.digest: offer for offer in there
        }
        if not found:
            raise UnknownSkill(f"no skill with the digest {text!r} is installed or on offer")
        if len(found) > 1:
            raise UnknownSkill(f"the digest {text!r} begins more than one skill: give more digits")
        return next(iter(found.values()))

    def _of_peer(self, text: str, peer: str, rest: str) -> Found:
        named = _NAMED.fullmatch(rest)
        cards = [
            card
            for card in self._offered.get(peer, {}).values()
            if named is not None
            and card.name == named["name"]
            and (named["version"] is None or card.version == int(named["version"]))
        ]
        if not cards:
            known = sorted(
                {f"{found.peer}/{found.card.name}" for found in self.offered()} | {*self._versions}
            )
            raise UnknownSkill(
                f"skill {text!r} is not on offer: {_nearby(text, known) or 'no peer offers any'}"
            )
        card = max(cards, key=lambda card: (card.version, card.digest))
        return Found(card) if card.digest in self._installed else Found(card, peer)

    def _unknown(self, text: str, name: str) -> str:
        offers = sorted(
            f"{found.peer}/{found.card.name}" for found in self.offered() if found.card.name == name
        )
        if offers:
            return f"skill {text!r} is not installed, but on offer: ask for {offers[0]!r}"
        near = _nearby(name, sorted(self._versions))
        return f"skill {text!r} is unknown: {near or 'none is installed'}"


def _nearby(name: str, known: Iterable[str]) -> str:
    """`did you mean …`, or what there is; empty where there is nothing."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"known are {shown}" if names else ""
