"""Which card a name means, of all versions and authors that are known of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from lora.authors import foremost
from lora.routing import Skill

__all__ = ["Names"]


class Names:
    """Versions by name; a card that is here goes before every one that is only offered."""

    def __init__(self, known: Mapping[str, Skill]) -> None:
        """`known`: the skills by digest, as the router keeps them."""
        self._known = known
        self._versions: dict[str, set[str]] = {}
        self._chosen: dict[str, str] = {}
        """Of each name the card that it means, whether it can be routed to or is named only."""
        self._arrived = 0

    def chosen(self) -> Iterable[str]:
        """The digests of the cards that names mean."""
        return self._chosen.values()

    def add(self, skill: Skill) -> None:
        """One more is known of its name."""
        self._versions.setdefault(skill.name, set()).add(skill.digest)

    def discard(self, skill: Skill) -> None:
        """It is not known any more; `choose` then says what its name means."""
        versions = self._versions[skill.name]
        versions.discard(skill.digest)
        if not versions:
            del self._versions[skill.name]

    def contends(self, new: Skill) -> bool:
        """Whether a new card may be the one that its name means: that it cannot is told at once,
        however many there are of the name."""
        chosen = self._known.get(self._chosen.get(new.name, ""))
        if chosen is None or chosen.virtual != new.virtual:
            return chosen is None or chosen.virtual
        if chosen.author == new.author or new.author is None:
            return True
        return chosen.author is not None and new.seniority > chosen.seniority

    def rank(self, skill: Skill, known: Skill | None) -> float:
        """Its place in the order of arrival; `known`: what was known of the same card before."""
        if skill.virtual or skill.author is None:
            return math.inf if skill.virtual else 0.0
        if known is not None and 0 < known.rank < math.inf:
            return known.rank
        self._arrived += 1
        return float(self._arrived)

    def choose(self, name: str) -> tuple[str | None, Skill | None]:
        """The digest of the card that a name meant, and the card that it means from now on."""
        skills = [self._known[digest] for digest in self._versions.get(name, ())]
        here = [skill for skill in skills if not skill.virtual]
        chosen = foremost(here or skills, lambda skill: skill.edition)
        old = self._chosen.pop(name, None)
        if chosen is not None:
            self._chosen[name] = chosen.digest
        return old, chosen
