"""Ten thousand skills that route as learned ones do, without learning any of them.

The base vectors of real sentences say how vectors of this model lie: their mean and covariance.
Skills and their queries are drawn from that, and each gets prototypes, a threshold and a boundary
by the rules of `lora.training.calibration`: told from everyday questions and from the queries of
other skills, the cosine alone lets through eight times as many of those as are allowed, and the
boundary (linear discriminant analysis) stops the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora.boundary import Boundary
from lora.head import normalize
from lora.neighbours import beside_key
from schemas import BaseModelRef, SkillCard

__all__ = ["Population", "cards_of", "population"]

Floats = npt.NDArray[np.float32]

PROTOTYPES = (3, 8)
"""Fewest and most of a skill."""

WITHIN = 0.6
"""How far a skill's prototypes and queries spread, as a share of how far vectors do at all."""

STRANGERS = 2000
"""Queries of other skills, each of another one, that all skills are told from."""

ALLOWED = 0.0075
"""Share of what belongs to others that a skill may take."""

WIDENING = 8
"""So many times as much passes its threshold."""

NEIGHBOURS = 8
"""Skills that a card says it was told from."""

BLOCK = 512


@dataclass(frozen=True)
class Population:
    """Skills, and queries of theirs and of nobody's; unit vectors throughout."""

    points: Floats
    """(p, dim) prototypes, those of a skill one after another."""
    starts: npt.NDArray[np.int64]
    """(s,) the first of each skill."""
    thresholds: Floats
    boundaries: tuple[Boundary, ...]
    own: Floats
    """(q, dim) queries, each drawn about a skill's centre."""
    others: Floats
    """(q, dim) queries drawn as the background is."""


def population(
    vectors: Floats, background: Floats, skills: int, queries: int, seed: int
) -> Population:
    """`vectors` (n, dim): real sentences, by which skills are drawn; `background` (z, dim):
    questions that belong to none, by which they are told from others."""
    random = np.random.default_rng(seed)
    draw, aside = _Like(normalize(vectors), random), _Like(normalize(background), random)
    centres = draw.at(skills)
    counts = random.integers(PROTOTYPES[0], PROTOTYPES[1] + 1, skills)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    points = normalize(np.repeat(centres, counts, axis=0) + draw.about(int(counts.sum()), WITHIN))
    some_of = random.permutation(skills)[:STRANGERS]
    strangers = normalize(centres[some_of] + draw.about(len(some_of), WITHIN))
    strangers = np.concatenate([normalize(background), strangers])
    normals = _apart(centres, strangers, draw.spread * WITHIN**2)
    thresholds = np.empty(skills, np.float32)
    boundaries = []
    for first in range(0, skills, BLOCK):
        some = slice(first, min(first + BLOCK, skills))
        low = starts[some][0]
        high = starts[some.stop] if some.stop < skills else len(points)
        scores = np.maximum.reduceat(strangers @ points[low:high].T, starts[some] - low, axis=1)
        along = strangers @ normals[some].T
        passing = int(WIDENING * ALLOWED * len(strangers))
        thresholds[some] = np.partition(scores, -passing, axis=0)[-passing]
        along[scores < thresholds[some]] = -np.inf
        allowed = int(ALLOWED * len(strangers))
        offsets = np.partition(along, -allowed - 1, axis=0)[-allowed - 1]
        boundaries += [
            Boundary(normal, float(offset))
            for normal, offset in zip(normals[some], offsets, strict=True)
        ]
    asked = random.permutation(skills)[:queries]
    own = normalize(centres[asked] + draw.about(len(asked), WITHIN))
    others = normalize(aside.at(queries))
    return Population(points, starts, thresholds, tuple(boundaries), own, others)


def cards_of(found: Population) -> Iterator[SkillCard]:
    """The skills as events describe them."""
    ends = np.append(found.starts[1:], len(found.points))
    for number, (first, last) in enumerate(zip(found.starts, ends, strict=True)):
        rows = found.points[first:last].astype("<f4").tobytes()
        beside = range(max(0, number - NEIGHBOURS), number)
        yield SkillCard(
            name=f"skill-{number}",
            version=1,
            digest=f"sha256:{number:064x}",
            bytes=400_000,
            rank=128,
            alpha=128.0,
            target_modules=("embedding",),
            base_model=BaseModelRef(id="benchmark", sha256="0" * 64),
            applies_to=("query",),
            description="",
            prototypes=base64.b64encode(rows).decode(),
            threshold=float(found.thresholds[number]),
            metrics={beside_key(f"skill-{other}"): 0.0 for other in beside},
            created="2026-01-01T00:00:00Z",
            parents=(),
            boundary=found.boundaries[number].to_text(),
        )


class _Like:
    """Draws vectors that lie as given ones (n, dim) do."""

    def __init__(self, vectors: Floats, random: np.random.Generator) -> None:
        self.mean = vectors.mean(axis=0)
        spread = np.cov(vectors.T.astype(np.float64))
        self.spread = spread + 0.02 * np.trace(spread) / len(spread) * np.eye(len(spread))
        self._root = np.linalg.cholesky(self.spread)
        self._random = random

    def about(self, count: int, share: float) -> Floats:
        drawn = self._random.normal(size=(count, len(self._root))) @ self._root.T * share
        return drawn.astype(np.float32)

    def at(self, count: int) -> Floats:
        found: Floats = self.mean + self.about(count, 1.0)
        return found


def _apart(centres: Floats, strangers: Floats, within: npt.NDArray[np.float64]) -> Floats:
    """(s, dim) the direction that tells each centre best from strangers, by Fisher (1936)."""
    spread = (within + np.cov(strangers.T.astype(np.float64))) / 2
    spread += 0.02 * np.trace(spread) * np.eye(len(spread))
    towards = (normalize(centres) - strangers.mean(axis=0)).T.astype(np.float64)
    normals = np.linalg.solve(spread, towards).T
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    rounded: Floats = normals.astype(np.float16).astype(np.float32)
    return rounded
