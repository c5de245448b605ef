"""The no-steal check upon what others claim: how near a query must be before their skill answers.

A skill that somebody else made is routed to only from a cosine on that lies above the greatest
between a prototype of its own and one of a skill that ranks below it: this node's own ones rank
below all others, what is installed below what is only offered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from lora.adapter import FloatArray
from lora.shelf import Shelf

__all__ = ["Guard"]

_ABOVE: Final = 1e-5
"""By so much the least cosine of a claim lies above what it may not reach; more than cosines of the
same two vectors differ from machine to machine."""


@dataclass
class _Claim:
    shelf: Shelf
    points: FloatArray
    threshold: float
    rank: float
    greatest: float = -1.0
    """The greatest cosine to a point that may not be stolen from."""
    nearest: str = ""
    """The digest of the skill with that point."""


class Guard:
    """Raises the least cosines of claims, and lowers them again, as skills come and go."""

    def __init__(self, here: Shelf, offered: Shelf) -> None:
        self._here = here
        self._offered = offered
        self._claims: dict[str, _Claim] = {}

    def claim(
        self, digest: str, points: FloatArray, threshold: float, rank: float, *, virtual: bool
    ) -> None:
        """A skill of somebody else's was put on its shelf, routed to from `threshold` on."""
        shelf = self._offered if virtual else self._here
        claim = self._claims[digest] = _Claim(shelf, points, threshold, rank)
        self._check(digest, claim)

    def arrived(self, digest: str, points: FloatArray, rank: float) -> None:
        """A skill was put among those that are here: those that rank above keep away from it."""
        for shelf in (self._here, self._offered):
            above = [
                (other, claim)
                for other, claim in self._claims.items()
                if claim.shelf is shelf and claim.rank > rank
            ]
            if not above:
                continue
            best = shelf.scores(points).max(axis=0)
            for other, claim in above:
                greatest = float(best[shelf.rows(other)].max())
                if greatest > claim.greatest:
                    claim.greatest, claim.nearest = greatest, digest
                    _raise(other, claim)

    def left(self, digest: str) -> None:
        """A skill is on no shelf any more: what kept away from it alone need not."""
        self._claims.pop(digest, None)
        for other, claim in self._claims.items():
            if claim.nearest == digest:
                self._check(other, claim)

    def _check(self, digest: str, claim: _Claim) -> None:
        below = np.flatnonzero(self._here.rank < claim.rank)
        claim.greatest, claim.nearest = -1.0, ""
        if len(below):
            best = self._here.scores(claim.points).max(axis=0)[below]
            place = int(best.argmax())
            claim.greatest = float(best[place])
            claim.nearest = self._here.owners[int(below[place])]
        _raise(digest, claim)


def _raise(digest: str, claim: _Claim) -> None:
    least = claim.threshold
    if claim.nearest:
        least = max(least, claim.greatest + _ABOVE)
    claim.shelf.set_least(digest, least if least <= 1 else math.inf)
