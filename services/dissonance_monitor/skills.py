"""The skills that are installed, as far as the monitor needs them: where their queries lie."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lora.boundary import Boundary
from schemas import SkillCard
from services.errors import CardDescriptionError
from services.runtime.cards import boundary_of, prototypes_of

__all__ = ["Nearest", "Skills"]

Vector = npt.NDArray[np.float32]


class Nearest(NamedTuple):
    """How a query lies to the skills there are."""

    novelty: float | None
    """Best cosine to any prototype of any skill; None where no skill has prototypes."""
    domain: str | None
    """The skill whose prototype is nearest among those that would answer, if any would."""


class Skills:
    """The newest installed version of each skill; torch-free, some thousands at most."""

    def __init__(self) -> None:
        self._cards: dict[str, dict[str, SkillCard]] = {}  # name: digest: card
        self._index: tuple[Vector, Vector, list[str]] | None = None
        self._boundaries: dict[str, Boundary] = {}

    def learn(self, card: SkillCard) -> None:
        """A version was installed."""
        self._cards.setdefault(card.name, {})[card.digest] = card
        self._index = None

    def forget(self, name: str, digest: str) -> None:
        """A version was retired; the one before it counts again."""
        versions = self._cards.get(name, {})
        versions.pop(digest, None)
        if not versions:
            self._cards.pop(name, None)
        self._index = None

    def nearest(self, vector: Vector) -> Nearest:
        """Where a base vector (dim,) of a query lies."""
        if self._index is None:
            self._index = self._indexed(len(vector))
        prototypes, thresholds, owners = self._index
        if not owners:
            return Nearest(None, None)
        query = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
        cosines = prototypes @ query
        best = int(cosines.argmax())
        beyond = {
            name for name, plane in self._boundaries.items() if not plane.holds(query[None])[0]
        }
        allowed = (cosines >= thresholds) & np.array([name not in beyond for name in owners])
        domain = None
        if allowed.any():
            domain = owners[int(np.where(allowed, cosines, -np.inf).argmax())]
        return Nearest(float(cosines[best]), domain)

    def _indexed(self, dim: int) -> tuple[Vector, Vector, list[str]]:
        """Prototypes (p, dim), and of each the least cosine that routes and the skill's name."""
        rows: list[Vector] = []
        thresholds: list[float] = []
        owners: list[str] = []
        self._boundaries = {}
        for name in sorted(self._cards):
            card = max(self._cards[name].values(), key=lambda card: (card.version, card.digest))
            try:
                prototypes = prototypes_of(card, dim)
                boundary = boundary_of(card, dim)
            except CardDescriptionError:  # made for another model: no query lies near it
                continue
            if prototypes is None:
                continue
            if boundary is not None:
                self._boundaries[name] = boundary
            norms = np.linalg.norm(prototypes, axis=1, keepdims=True)
            rows.append(prototypes / np.maximum(norms, 1e-12))
            least = np.inf if card.threshold is None else card.threshold
            thresholds += [float(least)] * len(prototypes)
            owners += [name] * len(prototypes)
        stacked = np.concatenate(rows) if rows else np.zeros((0, dim), np.float32)
        return stacked.astype(np.float32), np.array(thresholds, np.float32), owners
