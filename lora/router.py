"""The semantic index of skills: which cards a vector calls for; torch-free."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.authors import Edition, foremost, moment
from lora.boundary import Boundary
from lora.card import LoRACard
from lora.errors import CardInvalidError, ConfigError
from lora.guard import Guard
from lora.head import normalize
from lora.neighbours import AMBIGUOUS, BETWEEN, beside, stacking
from lora.shelf import Shelf

__all__ = ["DESCRIPTION_THRESHOLD", "Decision", "LoRARouter", "Match"]

DESCRIPTION_THRESHOLD: Final = 0.5
"""Least cosine to its description at which a card without prototypes is routed to."""

_DECIMALS: Final = 6
"""Scores are compared after this many decimals: floating point differs from machine to machine."""


@dataclass(frozen=True)
class Match:
    """A skill that a vector calls for."""

    name: str
    digest: str
    score: float
    """The best cosine to one of its prototypes, -1 to 1."""

    version: int = 1
    virtual: bool = False
    """Whether only a peer has it: there are no weights here yet."""


@dataclass(frozen=True)
class _Skill:
    name: str
    version: int
    digest: str
    virtual: bool
    author: str | None
    """None: this node's own."""

    created: float
    points: FloatArray | None
    """(k, dim), normalised; None where the skill is for named use only."""

    threshold: float
    boundary: Boundary | None = None
    beside: frozenset[str] = frozenset()
    """Names of the skills that it was told from."""

    stacks: frozenset[str] = frozenset()
    """12 digits of the digest of each card that was seen to help upon this one."""

    rank: float = 0.0
    """0 for this node's own, infinite where virtual; between them in the order of arrival. Of two
    skills the one with the lower rank is not to be stolen from."""

    @property
    def edition(self) -> Edition:
        return Edition(self.author, self.version, self.created, self.digest)

    @property
    def seniority(self) -> tuple[float, int, str]:
        """What decides between the newest of two authors; the greater is meant."""
        return self.created, self.version, self.digest


@dataclass(frozen=True)
class Decision:
    """Which skills answer a query."""

    matches: tuple[Match, ...] = ()
    """The nearest skill, and those stacked upon it; none where the base model answers."""

    reason: Literal["below_threshold", "ambiguous"] | None = None
    """Why there is none."""


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
        self._skills: dict[str, _Skill] = {}
        self._versions: dict[str, set[str]] = {}
        self._lock = threading.RLock()
        self._chosen: dict[str, str] = {}
        """Of each name the card that it means, whether it can be routed to or is named only."""
        self._here = Shelf(dim)
        self._offered = Shelf(dim)
        self._guard = Guard(self._here, self._offered)
        self._arrived = 0

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
        self._put(
            _Skill(
                card.name,
                card.version,
                card.key,
                False,
                author,
                moment(card.created),
                points,
                math.inf if threshold is None else threshold,
                boundary,
                beside(card.metrics) if author is None else frozenset(),
                stacking(card.metrics) if author is None else frozenset(),
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
        skill = _Skill(name, version, digest, True, author, made, points, least, boundary)
        self._put(skill, floor)

    def remove_card(self, *digests: str) -> None:
        """Forget skills; the versions before them are routed to again. Absent is no error."""
        with self._lock:
            skills = [self._skills.pop(it) for it in dict.fromkeys(digests) if it in self._skills]
            for skill in skills:
                self._versions[skill.name].discard(skill.digest)
                if not self._versions[skill.name]:
                    del self._versions[skill.name]
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
            return sorted(it for it in self._chosen.values() if any(it in of for of in shelves))

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
        _check(top_k)
        least = None if threshold is None else np.float32(threshold)
        return [hits[:top_k] for _, hits in self._found(vectors, least)]

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
        _check(top_k)
        with self._lock:
            found = self._found(vectors, None, offers=offers, without=without)
            return [self._decided(scores, hits, top_k) for scores, hits in found]

    def _found(
        self,
        vectors: npt.ArrayLike,
        least_of_all: np.float32 | None,
        *,
        offers: bool = True,
        without: Collection[str] = (),
    ) -> list[tuple[FloatArray, list[Match]]]:
        """Of each row its scores (p,) for all points that are here, and the skills it calls for."""
        rows = np.asarray(vectors, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim or not np.all(np.isfinite(rows)):
            raise CardInvalidError(f"vectors must be finite and (n, {self.dim}), not {rows.shape}")
        unit = normalize(rows)
        with self._lock:
            shelves = (self._here, self._offered) if offers else (self._here,)
            least = [_least(shelf, least_of_all) for shelf in shelves]
            if without and offers:
                for digest in without:
                    if digest in self._offered:
                        least[1][self._offered.rows(digest)] = np.inf
            found: list[tuple[FloatArray, list[Match]]] = []
            # In slices, so that the scores of many queries do not fill the memory.
            for start in range(0, len(unit), 256):
                part = unit[start : start + 256]
                scores = [np.round(shelf.scores(part), _DECIMALS) for shelf in shelves]
                for i, query in enumerate(part):
                    best: dict[str, float] = {}
                    if query.any():
                        for shelf, of, bound in zip(shelves, scores, least, strict=True):
                            _best(shelf, of[i], bound, best)
                    found.append((scores[0][i], self._hits(query, best)))
            return found

    def scores(self, vectors: npt.ArrayLike) -> FloatArray:
        """(n,) the best cosine of each row of (n, dim) to any prototype routed to; -1 with none."""
        unit = normalize(np.asarray(vectors, np.float32))
        best = np.full(len(unit), -1, np.float32)
        with self._lock:
            for shelf in (self._here, self._offered):
                live = np.isfinite(shelf.least)
                if live.any():
                    best = np.maximum(best, (unit @ shelf.points[live].T).max(axis=1))
            return best

    def _hits(self, query: FloatArray, best: dict[str, float]) -> list[Match]:
        """The skills of these scores on whose side the query lies, the best first."""
        order = sorted(best, key=lambda digest: (-best[digest], digest))
        skills = [self._skills[digest] for digest in order]
        return [
            Match(s.name, s.digest, best[s.digest], s.version, s.virtual)
            for s in skills
            if s.boundary is None or bool(s.boundary.holds(query[None])[0])
        ]

    def _decided(self, scores: FloatArray, hits: Sequence[Match], top_k: int) -> Decision:
        decision = self._judged(scores, hits, top_k)
        for claimed in (self._virtual, self._foreign):
            if decision.reason == "ambiguous" and claimed(hits[0].digest):
                # A claim keeps no skill from answering that is more than that.
                left = [hit for hit in hits if not claimed(hit.digest)]
                if not left:
                    break
                hits, decision = left, self._judged(scores, left, top_k)
        return decision

    def _judged(self, scores: FloatArray, hits: Sequence[Match], top_k: int) -> Decision:
        if not hits:
            return Decision(reason="below_threshold")
        first = hits[0]
        winner = self._skills[first.digest]
        nearer = np.flatnonzero((scores > first.score) & np.isfinite(self._here.least))
        silent = {self._here.owners[i] for i in nearer.tolist()} - {first.digest}
        if any(it.name not in winner.beside for it in self._rivals(winner, silent)):
            return Decision(reason="ambiguous")
        close = {hit.digest for hit in hits[1:] if first.score - hit.score < AMBIGUOUS}
        for other in self._rivals(winner, close):
            if other.name not in winner.beside and winner.name not in other.beside:
                return Decision(reason="ambiguous")
        chosen = [first]
        for hit in hits[1:]:
            if len(chosen) == top_k or first.score - hit.score > BETWEEN:
                break
            if all(self._helps(below, hit) for below in chosen):
                chosen.append(hit)
        return Decision(tuple(chosen))

    def _rivals(self, winner: _Skill, digests: set[str]) -> list[_Skill]:
        """Those that may make it ambiguous whether `winner` answers: of this node's own skills only
        its own, of the others all that are here."""
        skills = [self._skills[digest] for digest in digests]
        if winner.author is None:
            return [skill for skill in skills if skill.author is None]
        return [skill for skill in skills if not skill.virtual]

    def _virtual(self, digest: str) -> bool:
        return self._skills[digest].virtual

    def _foreign(self, digest: str) -> bool:
        return self._skills[digest].author is not None

    def _helps(self, below: Match, upon: Match) -> bool:
        """Whether one card has evidence that stacking the other upon it helps."""
        digits = upon.digest.removeprefix("sha256:")[:12]
        return digits in self._skills[below.digest].stacks

    def _put(self, skill: _Skill, floor: float | None) -> None:
        name, points, threshold = skill.name, skill.points, skill.threshold
        if points is not None:
            if points.ndim != 2 or points.shape[1] != self.dim or not np.all(np.isfinite(points)):
                raise CardInvalidError(
                    f"prototypes of {name!r} must be finite and (k, {self.dim}), not {points.shape}"
                )
            points = normalize(points if skill.author is None else _tame(points))
            points = points[points.any(axis=1)]
        if not math.isfinite(threshold) or points is None or not len(points):
            points, threshold = None, math.inf
        least = max(threshold, -1.0 if floor is None else floor)
        with self._lock:
            known = self._skills.get(skill.digest)
            self.remove_card(skill.digest)
            rank = self._rank(skill, known)
            self._skills[skill.digest] = replace(skill, points=points, threshold=least, rank=rank)
            self._versions.setdefault(name, set()).add(skill.digest)
            if self._contends(self._skills[skill.digest]):
                self._route(name)

    def _contends(self, new: _Skill) -> bool:
        """Whether a new card may be the one that its name means: that it cannot is told at once,
        however many there are of the name."""
        chosen = self._skills.get(self._chosen.get(new.name, ""))
        if chosen is None or chosen.virtual != new.virtual:
            return chosen is None or chosen.virtual
        if chosen.author == new.author or new.author is None:
            return True
        return chosen.author is not None and new.seniority > chosen.seniority

    def _rank(self, skill: _Skill, known: _Skill | None) -> float:
        if skill.virtual or skill.author is None:
            return math.inf if skill.virtual else 0.0
        if known is not None and 0 < known.rank < math.inf:
            return known.rank
        self._arrived += 1
        return float(self._arrived)

    def _route(self, name: str) -> None:
        """Have exactly the points of the card that its name means in the matrices."""
        skills = [self._skills[digest] for digest in self._versions.get(name, ())]
        here = [skill for skill in skills if not skill.virtual]
        chosen = foremost(here or skills, lambda skill: skill.edition)
        old = self._chosen.pop(name, None)
        if chosen is not None:
            self._chosen[name] = chosen.digest
        if chosen is not None and old == chosen.digest:
            return
        if old is not None:
            self._displace(old)
        if chosen is not None and chosen.points is not None:
            self._place(chosen, chosen.points)

    def _place(self, skill: _Skill, points: FloatArray) -> None:
        shelf = self._offered if skill.virtual else self._here
        shelf.put(skill.digest, points, skill.threshold, skill.rank)
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


def _check(top_k: int) -> None:
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, not {top_k}")


def _tame(points: FloatArray) -> FloatArray:
    """The same directions in lengths that can be squared, whatever somebody else wrote."""
    peak = np.abs(points).max(axis=1, keepdims=True)
    tamed: FloatArray = np.divide(points, peak, out=np.zeros_like(points), where=peak > 0)
    return tamed


def _least(shelf: Shelf, least_of_all: np.float32 | None) -> FloatArray:
    """(p,) the least cosine of each row for one search; a copy."""
    least = shelf.least.copy()
    return least if least_of_all is None else np.maximum(least, least_of_all)


def _best(shelf: Shelf, scores: FloatArray, least: FloatArray, best: dict[str, float]) -> None:
    """Enter the best score of each skill with a row that reaches its least cosine."""
    hits = np.flatnonzero(scores >= least)
    for i, score in zip(hits.tolist(), scores[hits].tolist(), strict=True):
        digest = shelf.owners[i]
        if score > best.get(digest, -math.inf):
            best[digest] = score
