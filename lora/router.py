"""The semantic index of skills: which cards a vector calls for; torch-free."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.boundary import Boundary
from lora.card import LoRACard
from lora.errors import CardInvalidError, ConfigError
from lora.head import normalize
from lora.neighbours import AMBIGUOUS, BETWEEN, beside, stacking

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
    points: FloatArray | None
    """(k, dim), normalised; None where the skill is for named use only."""

    threshold: float
    boundary: Boundary | None = None
    beside: frozenset[str] = frozenset()
    """Names of the skills that it was told from."""

    stacks: frozenset[str] = frozenset()
    """12 digits of the digest of each card that was seen to help upon this one."""


@dataclass(frozen=True)
class Decision:
    """Which skills answer a query."""

    matches: tuple[Match, ...] = ()
    """The nearest skill, and those stacked upon it; none where the base model answers."""

    reason: Literal["below_threshold", "ambiguous"] | None = None
    """Why there is none."""


class LoRARouter:
    """Skills by their prototypes, in one matrix.

    Of each name the newest installed version is routed to; when it is removed, the one before is
    again. A version that is for named use only hides older ones and is itself not routed to. A
    virtual candidate is routed to only while no version of its name is installed.

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
        self._routed: dict[str, tuple[str, list[int]]] = {}
        self._free: list[int] = []
        self._owners: list[str] = []
        self._matrix = np.zeros((0, dim), np.float32)
        self._least = np.zeros(0, np.float32)

    def __len__(self) -> int:
        """How many skills are known, routed to or not."""
        return len(self._skills)

    def register_card(
        self,
        card: LoRACard,
        *,
        description_vector: npt.ArrayLike | None = None,
        floor: float | None = None,
    ) -> None:
        """Index an installed card; the same digest again replaces what was known of it.

        With `threshold` None the card is for named use only. A card with prototypes is found by
        those at its own threshold, raised to `floor` where that is higher (for cards from
        elsewhere). One without is found by `description_vector`, the base vector of its
        description, at the configured threshold where that is higher than its own.
        """
        points = card.prototypes
        threshold = card.threshold
        boundary = Boundary.of(card.extra, self.dim)
        if points is None and description_vector is not None:
            points = np.atleast_2d(np.asarray(description_vector, np.float32))
            if threshold is not None:
                threshold = max(threshold, self.description_threshold)
        self._put(
            _Skill(
                card.name,
                card.version,
                card.key,
                False,
                points,
                math.inf if threshold is None else threshold,
                boundary,
                beside(card.metrics),
                stacking(card.metrics),
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
    ) -> None:
        """Index a skill that only a peer has: (k, dim) base vectors, no weights needed."""
        points = np.atleast_2d(np.asarray(prototypes, np.float32))
        least = self.description_threshold if threshold is None else threshold
        self._put(_Skill(name, version, digest, True, points, least, boundary), floor)

    def remove_card(self, digest: str) -> None:
        """Forget a skill; the version before it is routed to again. Absent is no error."""
        with self._lock:
            skill = self._skills.pop(digest, None)
            if skill is None:
                return
            self._versions[skill.name].discard(digest)
            if not self._versions[skill.name]:
                del self._versions[skill.name]
            self._route(skill.name)

    def cards(self) -> list[str]:
        """The digests of all skills known, sorted."""
        with self._lock:
            return sorted(self._skills)

    def routed(self) -> list[str]:
        """The digests of the skills that can be routed to now, sorted."""
        with self._lock:
            return sorted(digest for digest, _ in self._routed.values())

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

    def decide(self, vectors: npt.ArrayLike, top_k: int = 1) -> list[Decision]:
        """Which skills answer each row of (n, dim), and why none does.

        The nearest of those that `select` names answers, unless it is anybody's guess: another
        installed skill is nearer though it does not answer itself, or about as near, and neither
        was told from the other. With `top_k` above 1 further skills are stacked upon it where the
        query sits between them and the nearest card has evidence that this helps.
        """
        _check(top_k)
        with self._lock:
            return [
                self._decided(scores, hits, top_k) for scores, hits in self._found(vectors, None)
            ]

    def _found(
        self, vectors: npt.ArrayLike, least_of_all: np.float32 | None
    ) -> list[tuple[FloatArray, list[Match]]]:
        """Of each row its scores (p,) for all points, and the skills that it calls for."""
        rows = np.asarray(vectors, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim or not np.all(np.isfinite(rows)):
            raise CardInvalidError(f"vectors must be finite and (n, {self.dim}), not {rows.shape}")
        unit = normalize(rows)
        with self._lock:
            used = len(self._owners)
            if not used:
                return [(np.zeros(0, np.float32), []) for _ in rows]
            least = self._least[:used]
            if least_of_all is not None:
                least = np.maximum(least, least_of_all)
            found: list[tuple[FloatArray, list[Match]]] = []
            # In slices, so that the scores of many queries do not fill the memory.
            for start in range(0, len(unit), 256):
                part = unit[start : start + 256]
                scores = part @ self._matrix[:used].T if len(part) > 1 else self._scores(part[0])
                found += [
                    (row, self._hits(query, row, least) if query.any() else [])
                    for row, query in zip(np.round(scores, _DECIMALS), part, strict=True)
                ]
            return found

    def scores(self, vectors: npt.ArrayLike) -> FloatArray:
        """(n,) the best cosine of each row of (n, dim) to any prototype routed to; -1 with none."""
        unit = normalize(np.asarray(vectors, np.float32))
        with self._lock:
            live = np.isfinite(self._least[: len(self._owners)])
            if not live.any():
                return np.full(len(unit), -1, np.float32)
            best: FloatArray = (unit @ self._matrix[: len(self._owners)][live].T).max(axis=1)
            return best

    def _scores(self, query: FloatArray) -> FloatArray:
        scores: FloatArray = (self._matrix[: len(self._owners)] @ query)[None]
        return scores

    def _hits(self, query: FloatArray, scores: FloatArray, least: FloatArray) -> list[Match]:
        hits = np.flatnonzero(scores >= least)
        if not len(hits):
            return []
        best: dict[str, float] = {}
        for i, score in zip(hits.tolist(), scores[hits].tolist(), strict=True):
            digest = self._owners[i]
            if score > best.get(digest, -math.inf):
                best[digest] = score
        order = sorted(best, key=lambda digest: (-best[digest], digest))
        skills = [self._skills[digest] for digest in order]
        return [
            Match(s.name, s.digest, best[s.digest], s.version, s.virtual)
            for s in skills
            if s.boundary is None or bool(s.boundary.holds(query[None])[0])
        ]

    def _decided(self, scores: FloatArray, hits: Sequence[Match], top_k: int) -> Decision:
        decision = self._judged(scores, hits, top_k)
        here = [hit for hit in hits if not hit.virtual]
        if decision.reason == "ambiguous" and hits[0].virtual and here:
            # What a peer only offers is a claim: it keeps no skill that is here from answering.
            return self._judged(scores, here, top_k)
        return decision

    def _judged(self, scores: FloatArray, hits: Sequence[Match], top_k: int) -> Decision:
        if not hits:
            return Decision(reason="below_threshold")
        first = hits[0]
        winner = self._skills[first.digest]
        nearer = np.flatnonzero((scores > first.score) & np.isfinite(self._least[: len(scores)]))
        silent = {self._owners[i] for i in nearer.tolist()} - {first.digest}
        if any(self._skills[it].name not in winner.beside for it in self._real(silent)):
            return Decision(reason="ambiguous")
        close = {hit.digest for hit in hits[1:] if first.score - hit.score < AMBIGUOUS}
        for digest in self._real(close):
            other = self._skills[digest]
            if other.name not in winner.beside and winner.name not in other.beside:
                return Decision(reason="ambiguous")
        chosen = [first]
        for hit in hits[1:]:
            if len(chosen) == top_k or first.score - hit.score > BETWEEN:
                break
            if all(self._helps(below, hit) for below in chosen):
                chosen.append(hit)
        return Decision(tuple(chosen))

    def _real(self, digests: set[str]) -> list[str]:
        """Those that count as rivals: what a peer only offers is a claim."""
        return [it for it in digests if not self._skills[it].virtual]

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
            points = normalize(points)
            points = points[points.any(axis=1)]
        if math.isinf(threshold) or points is None or not len(points):
            points, threshold = None, math.inf
        least = max(threshold, -1.0 if floor is None else floor)
        with self._lock:
            self.remove_card(skill.digest)
            self._skills[skill.digest] = replace(skill, points=points, threshold=least)
            self._versions.setdefault(name, set()).add(skill.digest)
            self._route(name)

    def _route(self, name: str) -> None:
        """Have exactly the points of the name's newest version in the matrix."""
        skills = [self._skills[digest] for digest in self._versions.get(name, ())]
        newest = max(skills, key=lambda s: (not s.virtual, s.version, s.digest), default=None)
        old, indices = self._routed.pop(name, ("", []))
        if newest is not None and old == newest.digest:
            self._routed[name] = old, indices
            return
        for i in indices:
            self._least[i] = np.inf
            self._matrix[i] = 0
        self._free += indices
        if newest is not None and newest.points is not None:
            places = self._places(len(newest.points))
            self._matrix[places] = newest.points
            self._least[places] = newest.threshold
            for i in places:
                self._owners[i] = newest.digest
            self._routed[name] = newest.digest, places

    def _places(self, count: int) -> list[int]:
        places = [self._free.pop() for _ in range(min(count, len(self._free)))]
        for _ in range(count - len(places)):
            places.append(len(self._owners))
            self._owners.append("")
        if len(self._owners) > len(self._matrix):
            grown = max(64, 2 * len(self._matrix), len(self._owners))
            matrix = np.zeros((grown, self.dim), np.float32)
            least = np.full(grown, np.inf, np.float32)
            matrix[: len(self._matrix)], least[: len(self._least)] = self._matrix, self._least
            self._matrix, self._least = matrix, least
        return places


def _check(top_k: int) -> None:
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, not {top_k}")
