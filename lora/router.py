"""The semantic index of skills: which cards a vector calls for; torch-free."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.authors import moment
from lora.boundary import Boundary
from lora.card import LoRACard
from lora.errors import ConfigError
from lora.guard import Guard
from lora.head import normalize
from lora.names import Names
from lora.near import Around, ask_each
from lora.neighbours import beside, stacking
from lora.routing import Decision, Judge, Match, Skill, check_top, checked, prepared
from lora.shelf import Shelf

__all__ = ["DESCRIPTION_THRESHOLD", "Decision", "LoRARouter", "Match"]

Found = TypeVar("Found")

DESCRIPTION_THRESHOLD: Final = 0.5
"""Least cosine to its description at which a card without prototypes is routed to."""


class LoRARouter:
    """Skills by their prototypes: one matrix of those that are here, one of those on offer.

    Of each name the newest installed version is routed to; when it is removed, the one before is
    again. A version that is for named use only hides older ones and is itself not routed to. A
    virtual candidate is routed to only while no version of its name is installed.

    What other authors' cards and all virtual ones say is a claim. This node's own card goes before
    theirs of the same name; what theirs say of their neighbours is not heeded; and they are routed
    to only from a cosine on that is above the greatest between a prototype of theirs and one of a
    skill of another name that is this node's own, or was installed before.

    Several threads may call it.
    """

    def __init__(
        self,
        dim: int,
        *,
        description_threshold: float = DESCRIPTION_THRESHOLD,
        embedder: Callable[[str], npt.ArrayLike] | None = None,
    ) -> None:
        """`dim` is the width of the base space; `embedder` lets `select` take texts."""
        if dim < 1 or not -1 <= description_threshold <= 1:
            raise ConfigError("a router needs a positive dim and a threshold from -1 to 1")
        self.dim = dim
        self.description_threshold = description_threshold
        self._embedder = embedder
        self._skills: dict[str, Skill] = {}
        self._lock = threading.RLock()
        self._names = Names(self._skills)
        self._judge = Judge(self._skills)
        self._here = Shelf(dim)
        self._offered = Shelf(dim)
        self._guard = Guard(self._here, self._offered)

    def __len__(self) -> int:
        """How many skills are known, routed to or not."""
        return len(self._skills)

    @property
    def empty(self) -> bool:
        """Whether there is nothing that can be routed to."""
        return not (len(self._here) or len(self._offered))

    def register_card(
        self,
        card: LoRACard,
        *,
        description_vector: npt.ArrayLike | None = None,
        floor: float | None = None,
        author: str | None = None,
    ) -> None:
        """Index an installed card; the same digest again replaces what was known of it.

        With `threshold` None the card is for named use only. A card with prototypes is found by
        those at its own threshold, raised to `floor` where that is higher (for cards from
        elsewhere). One without is found by `description_vector`, the base vector of its
        description, at the configured threshold where that is higher than its own. With `author`,
        somebody else's card, it is found by prototypes or not at all.
        """
        points = card.prototypes
        threshold = card.threshold
        boundary = Boundary.of(card.extra, self.dim)
        if points is None and description_vector is not None and author is None:
            points = np.atleast_2d(np.asarray(description_vector, np.float32))
            if threshold is not None:
                threshold = max(threshold, self.description_threshold)
        # What is for named use only is compared with nothing.
        heeded = author is None and threshold is not None
        self._put(
            Skill(
                card.name,
                card.version,
                card.key,
                False,
                author,
                moment(card.created),
                points,
                math.inf if threshold is None else threshold,
                boundary,
                beside(card.metrics) if heeded else frozenset(),
                stacking(card.metrics) if heeded else frozenset(),
            ),
            floor,
        )

    def register_virtual_candidate(
        self,
        name: str,
        digest: str,
        prototypes: npt.ArrayLike,
        *,
        threshold: float | None = None,
        version: int = 1,
        floor: float | None = None,
        boundary: Boundary | None = None,
        author: str = "",
        created: str = "",
    ) -> None:
        """Index a skill that only a peer has: (k, dim) base vectors, no weights needed.

        `created`, an RFC 3339 time, decides between authors.
        """
        points = np.atleast_2d(np.asarray(prototypes, np.float32))
        least = self.description_threshold if threshold is None else threshold
        made = moment(created)
        skill = Skill(name, version, digest, True, author, made, points, least, boundary)
        self._put(skill, floor)

    def remove_card(self, *digests: str) -> None:
        """Forget skills; the versions before them are routed to again. Absent is no error."""
        with self._lock:
            skills = [self._skills.pop(it) for it in dict.fromkeys(digests) if it in self._skills]
            for skill in skills:
                self._names.discard(skill)
            for name in dict.fromkeys(skill.name for skill in skills):
                self._route(name)

    def cards(self) -> list[str]:
        """The digests of all skills known, sorted."""
        with self._lock:
            return sorted(self._skills)

    def least(self, digest: str) -> float:
        """The cosine from which on a skill is routed to now; infinite where it is not."""
        with self._lock:
            for shelf in (self._here, self._offered):
                if digest in shelf:
                    return float(shelf.least[shelf.rows(digest)[0]])
            return math.inf

    def routed(self) -> list[str]:
        """The digests of the skills that can be routed to now, sorted."""
        with self._lock:
            shelves = (self._here, self._offered)
            return sorted(it for it in self._names.chosen() if any(it in of for of in shelves))

    def select(
        self, query: npt.ArrayLike | str, top_k: int = 1, threshold: float | None = None
    ) -> list[Match]:
        """The skills that a vector (dim,), or a text, calls for, the best first; maybe none.

        A skill is named when the cosine reaches its own threshold and `threshold`, where given, and
        the vector lies on its side of its boundary. Equal scores are ordered by digest. A zero
        vector selects nothing.

        Raises:
            ConfigError: a text without an embedder, or top_k below 1.
            CardInvalidError: the vector has another width, or is not finite.
        """
        if isinstance(query, str):
            if self._embedder is None:
                raise ConfigError("to select by a text the router needs an embedder")
            query = self._embedder(query)
        return self.select_many(np.atleast_2d(np.asarray(query, np.float32)), top_k, threshold)[0]

    def select_many(
        self, vectors: npt.ArrayLike, top_k: int = 1, threshold: float | None = None
    ) -> list[list[Match]]:
        """As `select`, for each row of (n, dim)."""
        check_top(top_k)
        with self._lock:
            margin = 0.0 if top_k == 1 else math.inf
            found = self._ask(vectors, lambda around: around.hits(margin), threshold)
            return [[self._skills[it].match(score) for it, score in hits[:top_k]] for hits in found]

    def decide(
        self,
        vectors: npt.ArrayLike,
        top_k: int = 1,
        *,
        offers: bool = True,
        without: Collection[str] = (),
    ) -> list[Decision]:
        """Which skills answer each row of (n, dim), and why none does.

        The nearest of those that `select` names answers, unless it is anybody's guess: another
        installed skill is nearer though it does not answer itself, or about as near, and neither
        was told from the other. Claims are no rivals of this node's own skills: where one of other
        authors' or on offer is nearest and it is anybody's guess, the nearest of ours answers.
        With `top_k` above 1 further skills are stacked upon it where the query sits between them
        and the nearest card has evidence that this helps.

        Without `offers` only what is installed is looked at; virtual candidates named in `without`
        are passed over.
        """
        check_top(top_k)
        with self._lock:
            return self._ask(
                vectors,
                lambda around: self._judge.decide(around, top_k),
                offers=offers,
                without=without,
            )

    def _ask(
        self,
        vectors: npt.ArrayLike,
        ask: Callable[[Around], Found],
        least_of_all: float | None = None,
        *,
        offers: bool = True,
        without: Collection[str] = (),
    ) -> list[Found]:
        """What `ask` finds around each row; to be called under the lock."""
        unit = checked(vectors, self.dim)
        shelves = (self._here, self._offered) if offers and len(self._offered) else (self._here,)
        least = [shelf.least for shelf in shelves]
        if least_of_all is not None:
            least = [np.maximum(of, np.float32(least_of_all)) for of in least]
        passed = [digest for digest in without if digest in self._offered]
        if passed and len(shelves) > 1:
            least[1] = least[1].copy()
            for digest in passed:
                least[1][self._offered.rows(digest)] = np.inf
        return ask_each(list(zip(shelves, least, strict=True)), unit, ask)

    def scores(self, vectors: npt.ArrayLike) -> FloatArray:
        """(n,) the best cosine of each row of (n, dim) to any prototype routed to; -1 with none."""
        unit = normalize(np.asarray(vectors, np.float32))
        with self._lock:
            return np.maximum(self._here.best(unit), self._offered.best(unit))

    def _put(self, skill: Skill, floor: float | None) -> None:
        made = prepared(skill, self.dim, floor)
        with self._lock:
            known = self._skills.get(skill.digest)
            self.remove_card(skill.digest)
            made = replace(made, rank=self._names.rank(skill, known))
            self._skills[skill.digest] = made
            self._names.add(made)
            if self._names.contends(made):
                self._route(made.name)

    def _route(self, name: str) -> None:
        """Have exactly the points of the card that its name means in the matrices."""
        old, chosen = self._names.choose(name)
        if chosen is not None and old == chosen.digest:
            return
        if old is not None:
            self._displace(old)
        if chosen is not None and chosen.points is not None:
            self._place(chosen, chosen.points)

    def _place(self, skill: Skill, points: FloatArray) -> None:
        shelf = self._offered if skill.virtual else self._here
        shelf.put(skill.digest, points, skill.threshold, skill.rank, skill.boundary)
        if skill.author is not None:
            self._guard.claim(
                skill.digest, points, skill.threshold, skill.rank, virtual=skill.virtual
            )
        if not skill.virtual:
            self._guard.arrived(skill.digest, points, skill.rank)

    def _displace(self, digest: str) -> None:
        for shelf in (self._here, self._offered):
            if digest in shelf:
                shelf.drop(digest)
                self._guard.left(digest)
