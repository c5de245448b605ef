"""What a card may route: prototypes of its queries, and a threshold that steals nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora.training.errors import ConfigError
from lora.training.gate import unit

__all__ = ["Routing", "fit_prototypes", "fit_routing", "routing_scores"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]

LIMIT = 0.01
"""Largest share of negatives that a card may route."""

MARGINS = (0.5, 0.25, 0.0)
"""Shares of the limit that the fitted half may use, the next where the other half does not hold
the limit: it can make a threshold stricter, never looser."""

MIN_NEGATIVES = 300
MIN_ROUTED = 0.5
MIN_BEHIND = 5
"""Query groups behind a prototype, so that none reveals one."""

MOST_PROTOTYPES = 64
_SIZES = (1, 4, 8, 16, 32, MOST_PROTOTYPES)
_ROUNDS = 15


@dataclass(frozen=True, eq=False)
class Routing:
    """Prototypes and threshold of a card, and what they do to questions never fitted on."""

    prototypes: Floats | None
    """(p, dim) unit vectors in the base space; None with fewer than 5 query groups."""
    threshold: float | None
    """Least cosine to a prototype that routes; None: named use only."""
    routed: float
    """Share of the skill's own queries routed, each by prototypes without its fold; 0 to 1."""
    false_routed: float
    """Share of the other half of the negatives routed, 0 to 1."""
    kept: npt.NDArray[np.bool_]
    """(k,) which of the own queries are routed, out of fold; all where the use is named only."""
    reason: str
    """One sentence where there is no threshold, else empty."""


def routing_scores(vectors: npt.ArrayLike, prototypes: npt.ArrayLike) -> Floats:
    """Best cosine (n,) of base vectors (n, dim) to prototypes (p, dim): the router's score."""
    best: Floats = (unit(np.asarray(vectors)) @ unit(np.asarray(prototypes)).T).max(axis=1)
    return best


def fit_prototypes(
    vectors: npt.ArrayLike,
    groups: npt.ArrayLike,
    count: int,
    *,
    description: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Floats | None:
    """At most `count` centres of the queries (spherical k-means), at least 5 groups behind each.

    `vectors` (n, dim) base vectors, `groups` (n,). The description's vector (dim,) is one more
    prototype. None where there are fewer than 5 groups.
    """
    points = _group_means(unit(np.asarray(vectors)), np.asarray(groups))
    if len(points) < MIN_BEHIND:
        return None
    centres = _spread(points, min(count, len(points) // MIN_BEHIND), np.random.default_rng(seed))
    for _ in range(_ROUNDS):
        centres = _centres(points, (points @ centres.T).argmax(axis=1))
    while True:
        behind = np.bincount((points @ centres.T).argmax(axis=1), minlength=len(centres))
        if behind.min() >= MIN_BEHIND:
            break
        # The queries of the thinnest centre go to their next nearest.
        centres = np.delete(centres, int(behind.argmin()), axis=0)
        centres = _centres(points, (points @ centres.T).argmax(axis=1))
    if description is not None:
        centres = np.concatenate([centres, unit(np.asarray(description).reshape(1, -1))])
    return np.ascontiguousarray(centres, dtype=np.float32)


def fit_routing(
    vectors: npt.ArrayLike,
    groups: npt.ArrayLike,
    folds: npt.ArrayLike,
    negatives: npt.ArrayLike,
    *,
    description: npt.ArrayLike | None = None,
    limit: float = LIMIT,
    seed: int = 0,
) -> Routing:
    """Fit prototypes and threshold on the own queries (k, dim) and half of the negatives (z, dim).

    The number of prototypes is the one that keeps most of the own queries, each scored by
    prototypes fitted without its fold. Base vectors throughout. With fewer than 300 negatives, or
    less than half of the own queries kept, there is no threshold.
    """
    own, others = unit(np.asarray(vectors)), unit(np.asarray(negatives))
    ids, parts = np.asarray(groups), np.asarray(folds)
    if not len(own) == len(ids) == len(parts):
        raise ConfigError(f"{len(own)} vectors, {len(ids)} groups and {len(parts)} folds differ")
    if not 0 < limit < 1:
        raise ConfigError(f"limit should lie between 0 and 1, not {limit}")
    shuffled = np.random.default_rng(seed).permutation(len(others))
    fitted, checked = others[shuffled[::2]], others[shuffled[1::2]]
    fitter = _Fitter(own, ids, parts, fitted, limit, description, seed)
    everyone = np.ones(len(own), bool)
    if fitter.prototypes(everyone, 1) is None:
        return Routing(None, None, 0.0, 0.0, everyone, f"fewer than {MIN_BEHIND} query groups")
    if len(others) < MIN_NEGATIVES:
        reason = f"{len(others)} negatives are fewer than the {MIN_NEGATIVES} needed to be sure"
        prototypes = fitter.prototypes(everyone, MOST_PROTOTYPES)
        return Routing(prototypes, None, 0.0, 0.0, everyone, reason)
    sizes = [n for n in _SIZES if n == 1 or n * MIN_BEHIND <= len(np.unique(ids))]
    # max takes the first of equals: few prototypes before many.
    size = max(sizes, key=lambda count: int(fitter.kept(count, MARGINS[0]).sum()))
    prototypes = fitter.prototypes(everyone, size)
    scores = routing_scores(checked, np.asarray(prototypes))
    threshold, false, margin = 1.0, 1.0, MARGINS[0]
    for margin in MARGINS:
        threshold = fitter.threshold(prototypes, margin)
        false = float((scores >= threshold).mean())
        if false <= limit:
            break
    kept = fitter.kept(size, margin)
    routed = float(kept.mean())
    reason = ""
    if false > limit:
        reason = f"it would be routed {false:.1%} of other questions"
    elif routed < MIN_ROUTED:
        reason = f"only {routed:.0%} of its own queries would be routed to it"
    if reason:
        return Routing(prototypes, None, routed, false, everyone, reason)
    return Routing(prototypes, threshold, routed, false, kept, "")


@dataclass(frozen=True, eq=False)
class _Fitter:
    """Own queries and the half of the negatives that may be fitted on."""

    own: Floats
    groups: npt.NDArray[Any]
    folds: npt.NDArray[Any]
    negatives: Floats
    limit: float
    description: npt.ArrayLike | None
    seed: int

    def prototypes(self, rows: Rows, count: int) -> Floats | None:
        """Prototypes of some of the own queries; None where they are too few."""
        return fit_prototypes(
            self.own[rows],
            self.groups[rows],
            count,
            description=self.description,
            seed=self.seed,
        )

    def threshold(self, prototypes: Floats | None, margin: float) -> float:
        """Smallest cosine that routes at most `limit · margin` of the negatives."""
        if prototypes is None:
            return 1.0
        scores = np.sort(routing_scores(self.negatives, prototypes))[::-1]
        allowed = int(self.limit * margin * len(scores))
        # Just above the first one that is too many; float32, as the router compares.
        return float(np.nextafter(np.float32(scores[allowed]), np.float32(2.0)))

    def kept(self, count: int, margin: float) -> Rows:
        """Which of the own queries are routed by prototypes made without their fold."""
        kept = np.zeros(len(self.own), bool)
        for fold in np.unique(self.folds):
            out = self.folds == fold
            prototypes = self.prototypes(~out, count)
            if prototypes is not None:
                scores = routing_scores(self.own[out], prototypes)
                kept[out] = scores >= self.threshold(prototypes, margin)
        return kept


def _group_means(vectors: Floats, groups: npt.NDArray[Any]) -> Floats:
    """One point per group of near-duplicates, so that repetition weighs nothing."""
    if not len(vectors):
        return vectors
    _, member = np.unique(groups, return_inverse=True)
    return _centres(vectors, member)


def _spread(points: Floats, count: int, generator: np.random.Generator) -> Floats:
    """First centres far from each other, by chance in proportion to the distance (k-means++)."""
    chosen = [int(generator.integers(len(points)))]
    distance = np.maximum(1.0 - points @ points[chosen[0]], 1e-9).astype(np.float64)
    while len(chosen) < count:
        chosen.append(int(generator.choice(len(points), p=distance / distance.sum())))
        distance = np.minimum(distance, np.maximum(1.0 - points @ points[chosen[-1]], 1e-9))
    return points[chosen]


def _centres(points: Floats, member: Ints) -> Floats:
    """Mean direction of the points of each member; a centre that nobody is nearest to vanishes."""
    order = np.argsort(member, kind="stable")
    starts = np.flatnonzero(np.diff(member[order], prepend=-1))
    return unit(np.add.reduceat(points[order], starts, axis=0))
