"""The cards that are installed here: what is served to peers, and what others' cards take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from lora.store import CardStore
from schemas import ListedCard, SkillCard
from services.federation import manifest
from services.federation.catalogue import Catalogue
from services.federation.errors import CardRefused
from services.federation.identity import NodeKey

__all__ = ["Installed"]

SERVING: Final = ("installed", "kept")

REMEMBERED: Final = 4096
"""Rejected cards that are not fetched again."""


class Installed:
    """Keeps the catalogue in step with what the manager installs and retires.

    A card without a signer is this node's own, and is signed here; others keep their author's.
    """

    def __init__(self, catalogue: Catalogue, store: CardStore, key: NodeKey, log: Any) -> None:
        self._catalogue = catalogue
        self._store = store
        self._key = key
        self._log = log
        self._own = (key.public, None)
        self._cards: dict[str, SkillCard] = {}
        self._retired: set[str] = set()
        self._rejected: dict[str, str] = {}

    def lacks(self, digest: str) -> bool:
        """Whether it is not here, and not because it was retired or rejected: it would be again."""
        return not any(digest in known for known in (self._cards, self._retired, self._rejected))

    def has(self, digest: str) -> bool:
        """Whether it serves here."""
        return digest in self._cards

    def rejection(self, digest: str) -> str | None:
        """Why the manager did not take it, the last time that it was fetched."""
        return self._rejected.get(digest)

    def listed(self, cards: Iterable[ListedCard]) -> None:
        """The manager's list, which may be older than what was heard since."""
        for listed in cards:
            fields = {name: getattr(listed, name) for name in SkillCard.__struct_fields__}
            if listed.state == "retired":
                self.retire(listed.digest)
            elif listed.state == "rejected":
                self.reject(listed.digest, "it was rejected before")
            elif listed.state not in SERVING:
                continue
            elif listed.digest not in self._retired:
                self.install(SkillCard(**fields))

    def install(self, card: SkillCard) -> None:
        """From now on the card is served; one whose words no signature can cover stays here."""
        self._rejected.pop(card.digest, None)
        try:
            if card.signer is None:
                card = manifest.sign(card, self._key)
        except CardRefused as error:
            self._log.error("card not served to peers", skill=card.name, why=str(error))
            self._cards[card.digest] = card
            return
        self._cards[card.digest] = card
        self._catalogue.put(card, self._store.path(card.digest))

    def retire(self, digest: str) -> None:
        """From now on it is not."""
        self._retired.add(digest)
        self._cards.pop(digest, None)
        self._catalogue.remove(digest)

    def reject(self, digest: str, reason: str) -> None:
        """The manager does not take it."""
        if digest in self._cards:
            return
        self._rejected[digest] = reason
        while len(self._rejected) > REMEMBERED:
            del self._rejected[next(iter(self._rejected))]

    def foreign(self) -> tuple[SkillCard, ...]:
        """The cards of other authors."""
        return tuple(card for card in self._cards.values() if card.signer not in self._own)

    def foreign_bytes(self) -> int:
        """What they take of the disk."""
        return sum(card.bytes for card in self.foreign())

    def outdated_by(self, card: SkillCard) -> bool:
        """Whether an older version of this author's skill is here, and no newer one."""
        mine = [
            other.version
            for other in self.foreign()
            if (other.name, other.signer) == (card.name, card.signer)
        ]
        return bool(mine) and max(mine) < card.version
