"""The cards that this node serves to its peers."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from schemas import SkillCard

__all__ = ["Catalogue", "Offer"]

_NAME: Final = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(?:@(?P<version>[1-9][0-9]{0,9}))?")


class Offer(NamedTuple):
    """A card with its author's signature, and its file."""

    card: SkillCard
    path: Path


class Catalogue:
    """Offers by digest and by name; what is not in here does not exist for a peer. Thread-safe."""

    def __init__(self, own: str, bring: Callable[[str], Path] | None = None) -> None:
        """`own` is this node's public key: of two authors' skills its own is meant by the name.
        `bring` fetches the file of a digest that is not on this machine, where there is a store."""
        self._own = own
        self._bring = bring
        self._lock = threading.Lock()
        self._offers: dict[str, Offer] = {}

    def put(self, card: SkillCard, path: Path) -> None:
        """From now on this card is served."""
        with self._lock:
            self._offers[card.digest] = Offer(card, path)

    def remove(self, digest: str) -> None:
        """From now on it is not; absent is no error."""
        with self._lock:
            self._offers.pop(digest, None)

    def file(self, offer: Offer) -> Path:
        """The file of an offer; it may take as long as a store takes to answer.

        Raises `OSError` or `lora.errors.LoRAError` where it cannot be had.
        """
        if self._bring is None or offer.path.exists():
            return offer.path
        return self._bring(offer.card.digest)

    def offers(self) -> tuple[Offer, ...]:
        """All of them, own ones first, the newest version of a name first."""
        with self._lock:
            return tuple(sorted(self._offers.values(), key=self._order))

    def find(self, text: str) -> Offer | None:
        """The card of a digest, or the first of `name` or `name@version`."""
        with self._lock:
            if text in self._offers:
                return self._offers[text]
        named = _NAME.fullmatch(text)
        if named is None:
            return None
        version = None if named["version"] is None else int(named["version"])
        for offer in self.offers():
            if offer.card.name == named["name"] and version in (None, offer.card.version):
                return offer
        return None

    @property
    def revision(self) -> str:
        """Changes whenever the offers do."""
        digests = "\n".join(sorted(offer.card.digest for offer in self.offers()))
        return hashlib.sha256(digests.encode()).hexdigest()[:16]

    def _order(self, offer: Offer) -> tuple[bool, str, int, str]:
        card = offer.card
        return card.signer != self._own, card.name, -card.version, card.digest
