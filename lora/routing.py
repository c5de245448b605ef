"""Which of the skills that a query calls for answer it, and why none does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.authors import Edition
from lora.boundary import Boundary
from lora.errors import CardInvalidError, ConfigError
from lora.head import normalize
from lora.near import Around, Hits
from lora.neighbours import AMBIGUOUS, BETWEEN

__all__ = ["Decision", "Judge", "Match", "Skill", "check_top", "checked", "prepared"]


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
class Skill:
    """What a router knows of a card."""

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

    def match(self, score: float) -> Match:
        """The skill as an answer."""
        return Match(self.name, self.digest, score, self.version, self.virtual)

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


def prepared(skill: Skill, dim: int, floor: float | None) -> Skill:
    """The skill as it is searched for: unit points or none, and from `floor` on.

    Raises `CardInvalidError` where its points are not finite, or not `dim` wide.
    """
    points, threshold = skill.points, skill.threshold
    if points is not None:
        if points.ndim != 2 or points.shape[1] != dim or not np.all(np.isfinite(points)):
            raise CardInvalidError(
                f"prototypes of {skill.name!r} must be finite and (k, {dim}), not {points.shape}"
            )
        points = normalize(points if skill.author is None else _tame(points))
        points = points[points.any(axis=1)]
    if not math.isfinite(threshold) or points is None or not len(points):
        points, threshold = None, math.inf
    return replace(skill, points=points, threshold=max(threshold, -1.0 if floor is None else floor))


def checked(vectors: npt.ArrayLike, dim: int) -> FloatArray:
    """(n, dim) unit vectors; raises `CardInvalidError` where these make no sense."""
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim or not np.all(np.isfinite(rows)):
        raise CardInvalidError(f"vectors must be finite and (n, {dim}), not {rows.shape}")
    return normalize(rows)


def check_top(top_k: int) -> None:
    """Raises `ConfigError` where nothing could be selected."""
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, not {top_k}")


def _tame(points: FloatArray) -> FloatArray:
    """The same directions in lengths that can be squared, whatever somebody else wrote."""
    peak = np.abs(points).max(axis=1, keepdims=True)
    tamed: FloatArray = np.divide(points, peak, out=np.zeros_like(points), where=peak > 0)
    return tamed


class Judge:
    """Decides between the skills that a query calls for; `LoRARouter.decide` says how."""

    def __init__(self, known: Mapping[str, Skill]) -> None:
        """`known`: the skills by digest, as the router keeps them."""
        self._known = known

    def decide(self, around: Around, top_k: int) -> Decision:
        """Which skills answer a vector, by what is found around it."""
        hits = around.hits(max(AMBIGUOUS, BETWEEN) if top_k > 1 else AMBIGUOUS)
        decision = self._judged(around, hits, top_k)
        for claimed in (self._virtual, self._foreign):
            if decision.reason == "ambiguous" and claimed(hits[0][0]):
                # A claim keeps no skill from answering that is more than that; what is on offer
                # is another author's, too.
                left = [hit for hit in around.hits() if not claimed(hit[0])]
                if not left:
                    break
                hits, decision = left, self._judged(around, left, top_k)
        return decision

    def _judged(self, around: Around, hits: Hits, top_k: int) -> Decision:
        if not hits:
            return Decision(reason="below_threshold")
        first, best = hits[0]
        winner = self._known[first]
        for digest, score in hits[1:]:
            if best - score >= AMBIGUOUS:
                break
            other = self._known[digest]
            told = other.name in winner.beside or winner.name in other.beside
            if self._rivals(winner, digest) and not told:
                return Decision(reason="ambiguous")
        # To know that nothing is nearer takes longest.
        for silent in around.above(best):
            if silent == first or self._known[silent].name in winner.beside:
                continue
            if self._rivals(winner, silent):
                return Decision(reason="ambiguous")
        chosen = [winner.match(best)]
        for digest, score in hits[1:]:
            if len(chosen) == top_k or best - score > BETWEEN:
                break
            if all(self._helps(below, digest) for below in chosen):
                chosen.append(self._known[digest].match(score))
        return Decision(tuple(chosen))

    def _rivals(self, winner: Skill, digest: str) -> bool:
        """Whether this skill may make it ambiguous if `winner` answers: of this node's own skills
        only its own, of the others all that are here."""
        other = self._known[digest]
        return other.author is None if winner.author is None else not other.virtual

    def _virtual(self, digest: str) -> bool:
        return self._known[digest].virtual

    def _foreign(self, digest: str) -> bool:
        return self._known[digest].author is not None

    def _helps(self, below: Match, upon: str) -> bool:
        """Whether one card has evidence that stacking the other upon it helps."""
        return upon.removeprefix("sha256:")[:12] in self._known[below.digest].stacks
