"""The semantic index of skills: which cards a vector calls for; torch-free."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.card import LoRACard
from lora.errors import CardInvalidError, ConfigError
from lora.head import normalize

__all__ = ["DESCRIPTION_THRESHOLD", "LoRARouter", "Match"]

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
        if points is None and description_vector is not None:
            points = np.atleast_2d(np.asarray(description_vector, np.float32))
            if threshold is not None:
                threshold = max(threshold, self.description_threshold)
        self._put(card.name, card.version, card.key, False, points, threshold, floor)

    def register_virtual_candidate(
        self,
        name: str,
        digest: str,
        prototypes: npt.ArrayLike,
        *,
        threshold: float | None = None,
        version: int = 1,
        floor: float | None = None,
    ) -> None:
        """Index a skill that only a peer has: (k, dim) base vectors, no weights needed."""
        points = np.atleast_2d(np.asarray(prototypes, np.float32))
        least = self.description_threshold if threshold is None else threshold
        self._put(name, version, digest, True, points, least, floor)

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

        A skill is named when the cosine reaches its own threshold and `threshold`, where given.
        Equal scores are ordered by digest. A zero vector selects nothing.

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
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        rows = np.asarray(vectors, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim or not np.all(np.isfinite(rows)):
            raise CardInvalidError(f"vectors must be finite and (n, {self.dim}), not {rows.shape}")
        unit = normalize(rows)
        with self._lock:
            used = len(self._owners)
            if not used:
                return [[] for _ in rows]
            least = self._least[:used]
            if threshold is not None:
                least = np.maximum(least, np.float32(threshold))
            found: list[list[Match]] = []
            # In slices, so that the scores of many queries do not fill the memory.
            for start in range(0, len(unit), 256):
                part = unit[start : start + 256]
                scores = part @ self._matrix[:used].T if len(part) > 1 else self._scores(part[0])
                found += [
                    self._best(row, least, top_k) if query.any() else []
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

    def _best(self, scores: FloatArray, least: FloatArray, top_k: int) -> list[Match]:
        hits = np.flatnonzero(scores >= least)
        if not len(hits):
            return []
        best: dict[str, float] = {}
        for i, score in zip(hits.tolist(), scores[hits].tolist(), strict=True):
            digest = self._owners[i]
            if score > best.get(digest, -math.inf):
                best[digest] = score
        order = sorted(best, key=lambda digest: (-best[digest], digest))[:top_k]
        skills = [self._skills[digest] for digest in order]
        return [Match(s.name, s.digest, best[s.digest], s.version, s.virtual) for s in skills]

    def _put(
        self,
        name: str,
        version: int,
        digest: str,
        virtual: bool,
        points: FloatArray | None,
        threshold: float | None,
        floor: float | None,
    ) -> None:
        if points is not None:
            if points.ndim != 2 or points.shape[1] != self.dim or not np.all(np.isfinite(points)):
                raise CardInvalidError(
                    f"prototypes of {name!r} must be finite and (k, {self.dim}), not {points.shape}"
                )
            points = normalize(points)
            points = points[points.any(axis=1)]
        if threshold is None or points is None or not len(points):
            points, threshold = None, math.inf
        least = max(threshold, -1.0 if floor is None else floor)
        with self._lock:
            self.remove_card(digest)
            self._skills[digest] = _Skill(name, version, digest, virtual, points, least)
            self._versions.setdefault(name, set()).add(digest)
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
