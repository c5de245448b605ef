"""The cards that are installed here: what is served to peers, and what others' cards take."""

from __future__ import annotations

from collections.abc import Iterable

from lora.store import CardStore
from schemas import ListedCard, SkillCard
from services.federation import manifest
from services.federation.catalogue import Catalogue
from services.federation.identity import NodeKey

__all__ = ["Installed"]

SERVING = ("installed", "kept")


class Installed:
    """Keeps the catalogue in step with what the manager installs and retires.

    A card without a signer is this node's own, and is signed here; others keep their author's.
    """

    def __init__(self, catalogue: Catalogue, store: CardStore, key: NodeKey) -> None:
        self._catalogue = catalogue
        self._store = store
        self._key = key
        self._cards: dict[str, SkillCard] = {}
        self._retired: set[str] = set()

    def lacks(self, digest: str) -> bool:
        """Whether it is neither here nor was retired: then it would be rejected again."""
        return digest not in self._cards and digest not in self._retired

    def listed(self, cards: Iterable[ListedCard]) -> None:
        """The manager's list, which may be older than what was heard since."""
        for listed in cards:
            fields = {name: getattr(listed, name) for name in SkillCard.__struct_fields__}
            if listed.state not in SERVING:
                self.retire(listed.digest)
            elif listed.digest not in self._retired:
                self.install(SkillCard(**fields))

    def install(self, card: SkillCard) -> None:
        """From now on the card is served."""
        if card.signer is None:
            card = manifest.sign(card, self._key)
        self._cards[card.digest] = card
        self._catalogue.put(card, self._store.path(card.digest))

    def retire(self, digest: str) -> None:
        """From now on it is not."""
        self._retired.add(digest)
        self._cards.pop(digest, None)
        self._catalogue.remove(digest)

    def foreign(self) -> tuple[SkillCard, ...]:
        """The cards of other authors."""
        return tuple(card for card in self._cards.values() if card.signer != self._key.public)

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
