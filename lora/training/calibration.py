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

LIMIT = 0.01
"""Largest share of negatives that a card may route."""

MARGIN = 0.5
"""Share of the limit that the fitted half may use: the other half must hold it too."""

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
        centres = _centres(points, (points @ centres.T).argmax(axis=1), len(centres))
    while True:
        behind = np.bincount((points @ centres.T).argmax(axis=1), minlength=len(centres))
        if behind.min() >= MIN_BEHIND:
            break
        # The queries of the thinnest centre go to their next nearest.
        centres = np.delete(centres, int(behind.argmin()), axis=0)
        centres = _centres(points, (points @ centres.T).argmax(axis=1), len(centres))
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
    everyone = np.ones(len(own), bool)

    def make(rows: npt.NDArray[np.bool_], count: int) -> Floats | None:
        return fit_prototypes(own[rows], ids[rows], count, description=description, seed=seed)

    if make(everyone, 1) is None:
        return Routing(None, None, 0.0, 0.0, everyone, f"fewer than {MIN_BEHIND} query groups")
    if len(others) < MIN_NEGATIVES:
        reason = f"{len(others)} negatives are fewer than the {MIN_NEGATIVES} needed to be sure"
        return Routing(make(everyone, MOST_PROTOTYPES), None, 0.0, 0.0, everyone, reason)
    shuffled = np.random.default_rng(seed).permutation(len(others))
    fitted, checked = others[shuffled[::2]], others[shuffled[1::2]]
    best, kept = 1, np.zeros(len(own), bool)
    for size in _SIZES:
        if size > 1 and size * MIN_BEHIND > len(np.unique(ids)):
            break
        found = np.zeros(len(own), bool)
        for fold in np.unique(parts):
            out = parts == fold
            prototypes = make(~out, size)
            if prototypes is not None:
                least = _threshold(fitted, prototypes, limit)
                found[out] = routing_scores(own[out], prototypes) >= least
        if found.sum() > kept.sum():
            best, kept = size, found
    prototypes = make(everyone, best)
    if prototypes is None:  # unreachable: the same rows gave some above
        raise ConfigError("no prototypes could be fitted")
    threshold = _threshold(fitted, prototypes, limit)
    false = float((routing_scores(checked, prototypes) >= threshold).mean())
    routed = float(kept.mean())
    if routed < MIN_ROUTED:
        reason = f"only {routed:.0%} of its own queries would be routed to it"
        return Routing(prototypes, None, routed, false, everyone, reason)
    return Routing(prototypes, threshold, routed, false, kept, "")


def _threshold(negatives: Floats, prototypes: Floats, limit: float) -> float:
    """Smallest cosine that routes at most `limit · MARGIN` of the negatives."""
    scores = np.sort(routing_scores(negatives, prototypes))[::-1]
    allowed = int(limit * MARGIN * len(scores))
    # Just above the first one that is too many; float32, as the router compares.
    return float(np.nextafter(np.float32(scores[allowed]), np.float32(2.0)))


def _group_means(vectors: Floats, groups: npt.NDArray[Any]) -> Floats:
    names, member = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), vectors.shape[1] if vectors.ndim == 2 else 0), np.float32)
    np.add.at(sums, member, vectors)
    return unit(sums)


def _spread(points: Floats, count: int, generator: np.random.Generator) -> Floats:
    """First centres far from each other, by chance in proportion to the distance (k-means++)."""
    chosen = [int(generator.integers(len(points)))]
    distance = np.maximum(1.0 - points @ points[chosen[0]], 1e-9).astype(np.float64)
    while len(chosen) < count:
        chosen.append(int(generator.choice(len(points), p=distance / distance.sum())))
        distance = np.minimum(distance, np.maximum(1.0 - points @ points[chosen[-1]], 1e-9))
    return points[chosen]


def _centres(points: Floats, member: Ints, count: int) -> Floats:
    """Mean directions; a centre that nobody is nearest to vanishes."""
    sums = np.zeros((count, points.shape[1]), np.float32)
    np.add.at(sums, member, points)
    used = np.bincount(member, minlength=count) > 0
    return unit(sums[used])
