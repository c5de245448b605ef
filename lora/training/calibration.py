"""What a card may route: prototypes of its queries, a threshold, a boundary to neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lora.boundary import WIDEST, Boundary
from lora.training.errors import ConfigError
from lora.training.gate import unit

__all__ = [
    "Neighbour",
    "Routing",
    "allowed_of",
    "fit_prototypes",
    "fit_routing",
    "routing_scores",
]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]

LIMIT = 0.01
"""Largest share of negatives that a card may route."""

AIM = 0.75
"""Share of the limit that the fit may use: skills add up, and what people ask next year is of other
topics than what it saw."""

DOUBT = 0.05
"""Chance that a share above the limit shows no more routed negatives than are allowed."""

WIDENINGS = (1, 2, 4, 8)
"""How many times the allowed negatives the cosine alone may let through, where the boundary stops
the others: what a router does that knows no boundary stays bounded."""

WORTH = 0.02
"""Share of the own queries that more prototypes or a wider threshold must win."""

STRICTNESS = (1, 2, 4)
"""The allowed negatives are divided by these, one after another, where the half not fitted on does
not hold the limit: it can make a cut stricter, never looser."""

SHRINKAGE = 0.02
"""Weight of a round covariance beside the measured one, in shares of its trace."""

MIN_NEGATIVES = 300
MIN_ROUTED = 0.5
MIN_BEHIND = 5
"""Query groups behind a prototype, so that none reveals one."""

MOST_PROTOTYPES = 64
_SIZES = (1, 4, 8, 16, 32, MOST_PROTOTYPES)
_ROUNDS = 15
_PARTS = 5


@dataclass(frozen=True, eq=False)
class Neighbour:
    """Another installed skill, as far as routing goes."""

    name: str
    prototypes: Floats
    """(p, dim) unit vectors."""
    threshold: float
    boundary: Boundary | None = None

    def claims(self, vectors: Floats) -> Floats:
        """(n,) its score of unit vectors (n, dim) where it answers them, else -inf."""
        scores = routing_scores(vectors, self.prototypes)
        mine = scores >= self.threshold
        if self.boundary is not None:
            mine &= self.boundary.holds(vectors)
        return np.where(mine, scores, -np.inf).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Routing:
    """What a card routes by, and what that does to questions never fitted on."""

    prototypes: Floats | None
    """(p, dim) unit vectors in the base space; None with fewer than 5 query groups."""
    threshold: float | None
    """Least cosine to a prototype that routes; None: named use only."""
    boundary: Boundary | None
    """Where the queries must lie besides; None: the cosine decides alone."""
    routed: float | None
    """Share of the skill's own queries that the cut lets through, each scored by prototypes and
    normal fitted without its fold, 0 to 1; None where there were too few queries or negatives to
    measure anything."""
    false_routed: float | None
    """Share of the other half of the negatives routed, 0 to 1; None as above."""
    false_by_cosine: float | None
    """The same by a router that knows no boundary and no neighbour."""
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


def allowed_of(count: int, limit: float) -> int:
    """How many of `count` negatives may be routed while the share is surely below `limit`.

    The largest number with an upper 95 % bound (Clopper and Pearson) at the limit; 0 where even
    none would not show it.
    """
    below, most = 0.0, 0
    for routed in range(count + 1):
        chance = math.lgamma(count + 1) - math.lgamma(routed + 1) - math.lgamma(count - routed + 1)
        chance += routed * math.log(limit) + (count - routed) * math.log1p(-limit)
        below += math.exp(chance)
        if below > DOUBT:
            break
        most = routed
    return most


def fit_routing(
    vectors: npt.ArrayLike,
    groups: npt.ArrayLike,
    folds: npt.ArrayLike,
    negatives: npt.ArrayLike,
    *,
    neighbours: Sequence[Neighbour] = (),
    judged: npt.ArrayLike | None = None,
    description: npt.ArrayLike | None = None,
    limit: float = LIMIT,
    seed: int = 0,
) -> Routing:
    """Fit what a card routes on its own queries (k, dim) and half of the negatives (z, dim).

    The number of prototypes, and how much is left to the boundary, are those that keep most of the
    own queries, each scored by a fit without its fold. What a neighbour answers, and is nearer to,
    is not stolen. Base vectors throughout. With fewer than 300 negatives, or less than half of the
    own queries kept, or more than the limit of the other half routed, there is no threshold.
    """
    own, others = unit(np.asarray(vectors)), unit(np.asarray(negatives))
    ids, parts = np.asarray(groups), np.asarray(folds)
    if not len(own) == len(ids) == len(parts):
        raise ConfigError(f"{len(own)} vectors, {len(ids)} groups and {len(parts)} folds differ")
    if not 0 < limit < 1:
        raise ConfigError(f"limit should lie between 0 and 1, not {limit}")
    shuffled = np.random.default_rng(seed).permutation(len(others))
    fitted, checked = others[shuffled[::2]], others[shuffled[1::2]]
    everyone = np.ones(len(own), bool)
    counted = everyone if judged is None else np.asarray(judged, bool)
    fitter = _Fitter(own, ids, parts, counted, fitted, tuple(neighbours), limit, description, seed)
    if fitter.prototypes(everyone, 1) is None:
        few = f"fewer than {MIN_BEHIND} query groups"
        return Routing(None, None, None, None, None, None, everyone, few)
    if len(others) < MIN_NEGATIVES:
        reason = f"{len(others)} negatives are fewer than the {MIN_NEGATIVES} needed to be sure"
        prototypes = fitter.prototypes(everyone, MOST_PROTOTYPES)
        return Routing(prototypes, None, None, None, None, None, everyone, reason)
    for strictness in STRICTNESS:
        prototypes, cut, kept = replace(fitter, strictness=strictness).best()
        through = routing_scores(checked, prototypes) >= cut.threshold
        false = through & (routing_scores(checked, prototypes) > _claimed(checked, neighbours))
        if cut.boundary is not None:
            false &= cut.boundary.holds(checked)
        stolen, routed = float(false.mean()), float(kept[counted].mean())
        if stolen <= limit:
            break
    reason = ""
    if stolen > limit:
        reason = f"it would be routed {stolen:.1%} of other questions"
    elif routed < MIN_ROUTED:
        reason = f"only {routed:.0%} of its own queries would be routed to it"
    by_cosine = float(through.mean())
    if reason:
        return Routing(prototypes, None, None, routed, stolen, by_cosine, everyone, reason)
    return Routing(prototypes, cut.threshold, cut.boundary, routed, stolen, by_cosine, kept, reason)


@dataclass(frozen=True, eq=False)
class _Cut:
    """What decides over a query's score and side."""

    threshold: float
    boundary: Boundary | None


@dataclass(frozen=True, eq=False)
class _Fitter:
    """Own queries and the half of the negatives that may be fitted on."""

    own: Floats
    groups: npt.NDArray[Any]
    folds: npt.NDArray[Any]
    judged: Rows
    """Which of the own queries count."""
    negatives: Floats
    neighbours: tuple[Neighbour, ...]
    limit: float
    description: npt.ArrayLike | None
    seed: int
    strictness: int = 1
    fits: dict[int, list[Floats | None]] = field(default_factory=dict)
    """By number of prototypes: those of all own queries, then of each fold's fit; no strictness
    changes them."""
    sides: list[_Side | None] = field(default_factory=list)
    """Of all own queries, then of each fold's fit."""

    def best(self) -> tuple[Floats, _Cut, Rows]:
        """The prototypes and cut that keep most own queries, and which those are, out of fold.

        What is counted is what the one cut that is returned keeps of queries scored without their
        fold: cuts of the folds' own would say nothing of it, as each hangs on a few negatives.
        """
        everyone = np.ones(len(self.own), bool)
        # Of each fold: its queries, and what was fitted without them.
        parts = [(self.folds == fold) for fold in np.unique(self.folds)]
        if not self.sides:
            self.sides.append(_Side.fit(self.own, self.negatives))
            self.sides.extend(_Side.fit(self.own[~out], self.negatives) for out in parts)
        whole, *apart = self.sides
        claimed = _claimed(self.negatives, self.neighbours)
        mine = _claimed(self.own, self.neighbours)
        found: tuple[Floats, _Cut, Rows] | None = None
        worth = WORTH * int(self.judged.sum())
        for size in (n for n in _SIZES if n == 1 or n * MIN_BEHIND <= len(np.unique(self.groups))):
            if size not in self.fits:
                fitted = [everyone, *(~out for out in parts)]
                self.fits[size] = [self.prototypes(rows, size) for rows in fitted]
            prototypes, *others = self.fits[size]
            if prototypes is None:
                break
            scores = np.full(len(self.own), -np.inf, np.float32)
            along = np.full(len(self.own), -np.inf, np.float32)
            for out, points, side in zip(parts, others, apart, strict=True):
                if points is not None:
                    scores[out] = routing_scores(self.own[out], points)
                if side is not None:
                    along[out] = self.own[out] @ side.normal
            for widening in WIDENINGS:
                cut = self.cut(prototypes, whole, claimed, widening)
                kept = (scores >= cut.threshold) & (scores > mine)
                if cut.boundary is not None:
                    kept &= along >= cut.boundary.offset
                many = int(kept[self.judged].sum())
                if found is None or many > int(found[2][self.judged].sum()) + worth:
                    found = prototypes, cut, kept
        if found is None:
            raise ConfigError(f"fewer than {MIN_BEHIND} query groups")
        return found

    def prototypes(self, rows: Rows, count: int) -> Floats | None:
        """Prototypes of some of the own queries; None where they are too few."""
        return fit_prototypes(
            self.own[rows],
            self.groups[rows],
            count,
            description=self.description,
            seed=self.seed,
        )

    def cut(self, prototypes: Floats, side: _Side | None, claimed: Floats, widening: int) -> _Cut:
        """The loosest cut that routes no more negatives than allowed.

        The cosine lets `widening` times as many through, neighbours or not; the boundary stops the
        rest of those that no neighbour claims.
        """
        allowed = allowed_of(len(self.negatives), AIM * self.limit) // self.strictness
        scores = routing_scores(self.negatives, prototypes)
        if widening == 1 or side is None:
            return _Cut(_above(np.where(scores > claimed, scores, -1.0), allowed), None)
        threshold = _above(scores, max(1, allowed) * widening)
        left = (scores >= threshold) & (scores > claimed)
        if int(left.sum()) <= allowed:
            return _Cut(threshold, None)
        offset = _above(np.where(left, side.scores, -np.inf), allowed)
        return _Cut(threshold, Boundary(side.normal, offset))


@dataclass(frozen=True, eq=False)
class _Side:
    """A direction that tells own queries from negatives, and the negatives' places along it."""

    normal: Floats
    """(dim,), as precise as a card holds it."""
    scores: Floats
    """(z,) of each negative by a direction fitted without it."""

    @classmethod
    def fit(cls, own: Floats, negatives: Floats) -> _Side | None:
        """Linear discriminant analysis with both classes of equal weight (Fisher 1936)."""
        if len(own) < MIN_BEHIND or own.shape[1] > WIDEST:
            return None
        part = np.arange(len(negatives)) % _PARTS
        scores = np.zeros(len(negatives), np.float32)
        for fold in range(_PARTS):
            scores[part == fold] = negatives[part == fold] @ _normal(own, negatives[part != fold])
        return cls(_normal(own, negatives), scores)


def _normal(own: Floats, negatives: Floats) -> Floats:
    """(dim,) unit normal, rounded to float16; the covariance is shrunk towards a round one."""
    means = own.mean(axis=0), negatives.mean(axis=0)
    spread = sum(
        (rows - mean).T @ (rows - mean) / len(rows)
        for rows, mean in zip((own, negatives), means, strict=True)
    )
    spread = np.asarray(spread, np.float64) / 2
    spread += SHRINKAGE * np.trace(spread) * np.eye(len(spread))
    normal = np.linalg.solve(spread, (means[0] - means[1]).astype(np.float64))
    normal /= max(float(np.linalg.norm(normal)), 1e-12)
    return normal.astype(np.float16).astype(np.float32)


def _claimed(vectors: Floats, neighbours: Sequence[Neighbour]) -> Floats:
    """(n,) the best score among the neighbours that answer; -inf where none does."""
    best = np.full(len(vectors), -np.inf, np.float32)
    for neighbour in neighbours:
        best = np.maximum(best, neighbour.claims(vectors))
    return best


def _above(scores: npt.NDArray[Any], allowed: int) -> float:
    """Just above the first score that is too many; float32, as the router compares."""
    ordered = np.sort(np.asarray(scores, np.float32))[::-1]
    first = ordered[min(allowed, len(ordered) - 1)]
    return float(np.nextafter(np.float32(max(first, -1.0)), np.float32(2.0)))


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
