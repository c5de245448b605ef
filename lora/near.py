"""What lies near a vector on a shelf: searched where it may lie, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.planes import Sides
from lora.sieve import Sieved

if TYPE_CHECKING:
    from lora.shelf import Shelf

__all__ = ["DECIMALS", "Calls", "Near", "search"]

DECIMALS: Final = 6
"""Scores are compared after this many decimals: floating point differs from machine to machine."""

TOGETHER: Final = 32
"""Vectors searched for at once: their scores do not fill the memory."""

FEW: Final = 1024
"""So many points are read as they are, without a sieve."""

SPARSE: Final = 8
"""Where more than one in so many points remains to be read, all are, at once."""

AHEAD: Final = 0.1
"""Points whose bound is so near to the highest are looked at before all others."""

_SLACK: Final = np.float32(10.0**-DECIMALS)
_APART: Final = np.float32(1.5 * 10.0**-DECIMALS)
"""Two scores of one point may differ by so much: they come from products of different shapes."""
"""More than rounding adds to a score."""

Ints = npt.NDArray[np.int64]


class Calls(NamedTuple):
    """The skills that a vector calls for."""

    scores: dict[str, float]
    """The best score of each, by digest; boundaries are heeded only as far as they are certain."""
    doubtful: set[str]
    """Those of which a boundary must be asked on which side the vector lies."""


def search(shelf: Shelf, unit: FloatArray, least: FloatArray) -> Iterator[Near]:
    """Of unit vectors (n, dim), one after another, what is near; nothing may change meanwhile.

    `least` (p,) are the cosines from which on points count.
    """
    for start in range(0, len(unit), TOGETHER):
        some = _Together(shelf, unit[start : start + TOGETHER])
        for row in range(len(some.unit)):
            yield Near(some, row, least)


class _Together:
    """Several vectors, whose products with everything are made at once, when first needed."""

    def __init__(self, shelf: Shelf, unit: FloatArray) -> None:
        self.shelf, self.unit = shelf, unit
        self.sides: Sides | None = shelf.sides(unit)
        self._scores: FloatArray | None = None
        self._sieved: Sieved | None = None

    @property
    def scores(self) -> FloatArray:
        """(n, p)"""
        if self._scores is None:
            self._scores = self.shelf.scores(self.unit)
        return self._scores

    @property
    def sieved(self) -> Sieved | None:
        """Bounds of these scores; None where there is no sieve, or the scores are known."""
        sieve = self.shelf.sieve
        if self._scores is not None or sieve is None:
            return None
        if self._sieved is None:
            self._sieved = sieve.bounds(self.unit, len(self.shelf.owners))
        return self._sieved


class Near:
    """One vector among the points of a shelf."""

    def __init__(self, some: _Together, row: int, least: FloatArray) -> None:
        self._some, self._shelf, self._row, self._least = some, some.shelf, row, least
        self._query: FloatArray = some.unit[row]

    def calls(self) -> Calls:
        """The skills with a point that reaches its least cosine, on whose side the vector lies."""
        if not self._query.any():
            return Calls({}, set())
        shelf, sides = self._shelf, self._some.sides
        among = None if sides is None else shelf.rows_of(np.flatnonzero(sides.held[self._row]))
        rows, scores = self._reaching(self._least, among)
        best: dict[str, float] = {}
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            digest = shelf.owners[row]
            if score > best.get(digest, -math.inf):
                best[digest] = score
        doubtful: set[str] = set()
        if sides is not None and len(rows):
            again = rows[sides.doubtful(self._row, shelf.slots.take(rows))]
            doubtful = {shelf.owners[row] for row in again.tolist()}
        return Calls(best, doubtful)

    def above(self, score: float) -> Iterator[str]:
        """The skills that can be routed to of which a point is nearer than this score; each at
        least once, the likeliest first."""
        bar = np.float32(score)
        sieved = self._some.sieved
        if sieved is not None:
            # Mostly there are none; and where there are many the first will do.
            most = sieved.most[self._row]
            high = np.float32(most.max(initial=-1) - AHEAD)
            if high > bar:
                yield from self._nearer(bar, np.flatnonzero(most >= high))
        yield from self._nearer(bar, None)

    def _nearer(self, bar: np.float32, among: Ints | None) -> Sequence[str]:
        shelf = self._shelf
        rows, scores = self._reaching(bar, among)
        nearer = rows[(scores > bar + _APART) & np.isfinite(shelf.least.take(rows))]
        return [shelf.owners[row] for row in nearer.tolist()]

    def _reaching(
        self, least: FloatArray | np.float32, among: Ints | None
    ) -> tuple[Ints, FloatArray]:
        """Rows whose score is `least` (p,), or one for all, or more; and these scores.

        Only of the rows `among`, where they are given.
        """
        each = least if isinstance(least, np.ndarray) else None
        rows = among
        if (rows is None or len(rows) > FEW) and (sieved := self._some.sieved) is not None:
            rows = self._sifted(sieved, least, rows)
        many = rows is None or SPARSE * len(rows) > len(self._shelf.owners)
        if many and (rows is None or len(rows) > FEW):
            scores = self._some.scores[self._row]
            if rows is None:
                rows = np.flatnonzero(scores >= least - _SLACK)
            scores = scores.take(rows)
        else:
            assert rows is not None  # noqa: S101 (few of them are)
            scores = self._shelf.points.take(rows, axis=0) @ self._query
        scores = np.round(scores, DECIMALS)
        kept = scores >= (least if each is None else each.take(rows))
        return rows[kept], scores[kept]

    def _sifted(self, sieved: Sieved, least: FloatArray | np.float32, among: Ints | None) -> Ints:
        most = sieved.most[self._row]
        if among is None:
            among = np.flatnonzero(most >= least)
        if SPARSE * len(among) > len(most) or self._shelf.sieve is None:
            return among
        bar = least.take(among) if isinstance(least, np.ndarray) else least
        return self._shelf.sieve.left(sieved, self._row, among, bar)
