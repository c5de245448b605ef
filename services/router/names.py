"""What a skill's name on the wire means: the directory of installed and offered cards."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from lora.authors import Edition, foremost
from schemas import SkillCard
from services.router.errors import UnknownSkill
from services.router.offers import Found, Offers
from services.runtime.cards import edition_of

__all__ = ["Directory"]

_DIGEST: Final = re.compile(r"(?:sha256:([0-9a-f]{12,64})|([0-9a-f]{12,64}))")
_NAMED: Final = re.compile(r"(?P<name>[^@/]+)(?:@(?P<version>[1-9][0-9]{0,9}))?")


class Directory:
    """The cards that requests may use, by name, version and digest, and what peers offer.

    Several authors may have skills of one name. The plain name means this node's own where there is
    one, else the one that was made last; every author counts their own versions.
    """

    def __init__(self, offers: Offers | None = None) -> None:
        self.offers = Offers() if offers is None else offers
        self._installed: dict[str, SkillCard] = {}
        self._peers: dict[str, str] = {}
        self._names: dict[str, dict[str, SkillCard]] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._installed

    def __len__(self) -> int:
        return len(self._installed)

    def install(self, card: SkillCard, peer: str | None = None) -> None:
        """From now on requests may use this card, which came from this peer."""
        self._installed[card.digest] = card
        self._names.setdefault(card.name, {})[card.digest] = card
        if peer is not None:
            self._peers[card.digest] = peer

    def retire(self, digest: str) -> SkillCard | None:
        """From now on they may not; the card, if it was installed."""
        card = self._installed.pop(digest, None)
        self._peers.pop(digest, None)
        if card is not None:
            del self._names[card.name][digest]
            if not self._names[card.name]:
                del self._names[card.name]
        return card

    def newest(self, name: str) -> SkillCard | None:
        """The installed card that a plain name means."""
        return foremost(self._names.get(name, {}).values(), edition_of)

    def get(self, digest: str) -> SkillCard | None:
        """The installed card of this digest."""
        return self._installed.get(digest)

    def installed(self) -> tuple[SkillCard, ...]:
        """Every installed card, the older versions too."""
        return tuple(self._installed.values())

    def offered(self) -> tuple[Found, ...]:
        """Every card that a peer offers and that is not installed here."""
        return tuple(found for found in self.offers if found.card.digest not in self._installed)

    def offers_of(self, digest: str) -> tuple[Found, ...]:
        """Who offers this card, the first who did first; nobody where it is installed here."""
        return () if digest in self._installed else self.offers.by_digest(digest)

    def instead_of(self, text: str) -> SkillCard | None:
        """What is installed under `peer/name`, for where a newer one does not come; None under all
        other names, which mean one card and no other."""
        peer, slash, name = text.rpartition("/")
        cards = (card for card in self._from(peer) if card.name == name)
        return foremost(cards, edition_of) if slash else None

    def resolve(self, text: str) -> Found:
        """The card that `name`, `name@3`, `sha256:…`, 12 of its digits or `peer/name` means.

        What came from a peer is found under the peer's name when the peer is gone, too.

        Raises `UnknownSkill`, naming what is known nearby.
        """
        peer, slash, rest = text.rpartition("/")
        if slash:
            return self._of_peer(text, peer, rest)
        named = _NAMED.fullmatch(text)
        if named is not None and named["name"] in self._names:
            return Found(self._version(text, named["name"], named["version"]))
        digits = _DIGEST.fullmatch(text)
        if digits is not None:
            return self._by_digits(text, digits[1] or digits[2])
        raise UnknownSkill(self._unknown(text, named["name"] if named is not None else text))

    def _version(self, text: str, name: str, version: str | None) -> SkillCard:
        cards = self._names[name].values()
        if version is None:
            newest = self.newest(name)
            if newest is not None:
                return newest
        same = [card for card in cards if str(card.version) == version]
        found = [card for card in same if card.signer is None] or same
        if not found:
            raise UnknownSkill(
                f"skill {text!r} is not installed: of {name!r} there are the versions "
                f"{', '.join(map(str, sorted({card.version for card in cards})))}"
            )
        if len(found) > 1:
            raise UnknownSkill(
                f"several authors have a skill {text!r}: ask for "
                f"{' or '.join(sorted(map(self._told, found)))}"
            )
        return found[0]

    def _told(self, card: SkillCard) -> str:
        """An installed card so that it is told from others of its name and version."""
        peer = self._peers.get(card.digest)
        digest = card.digest[: len("sha256:") + 12]
        return digest if peer is None else f"'{peer}/{card.name}@{card.version}' ({digest})"

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
            for card in (*self._from(peer), *self.offers.by_peer(peer))
            if named is not None
            and card.name == named["name"]
            and (named["version"] is None or card.version == int(named["version"]))
        ]
        card = foremost(cards, _claimed)
        if card is None:
            known = sorted(
                {f"{found.peer}/{found.card.name}" for found in self.offered()} | {*self._names}
            )
            raise UnknownSkill(
                f"skill {text!r} is not on offer: {_nearby(text, known) or 'no peer offers any'}"
            )
        here = self._installed.get(card.digest)
        return Found(card, peer) if here is None else Found(here)

    def _from(self, peer: str) -> list[SkillCard]:
        """The installed cards that came from a peer."""
        return [self._installed[digest] for digest, of in self._peers.items() if of == peer]

    def _unknown(self, text: str, name: str) -> str:
        offers = sorted(
            f"{found.peer}/{found.card.name}" for found in self.offered() if found.card.name == name
        )
        if offers:
            return f"skill {text!r} is not installed, but on offer: ask for {offers[0]!r}"
        near = _nearby(name, sorted(self._names))
        return f"skill {text!r} is unknown: {near or 'none is installed'}"


def _claimed(card: SkillCard) -> Edition:
    """Of what a peer has, nothing is this node's own."""
    return edition_of(card)._replace(author=card.signer or "")


def _nearby(name: str, known: Iterable[str]) -> str:
    """`did you mean …`, or what there is; empty where there is nothing."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"known are {shown}" if names else ""
