"""What lies near a vector on a shelf: searched where it may lie, and nowhere else.

Mostly a few points are likelier near than all others, and one of them settles it; or the vector
lies on the sides of few boundaries, and only the points of those skills are read. What neither
settles needs every score; vectors of which that is so are multiplied with all points together. For
one alone that means to read the whole memory; with closer bounds of all points it is half of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.sieve import Sieved

if TYPE_CHECKING:
    from lora.shelf import Shelf

__all__ = ["DECIMALS", "Around", "Hits", "ask_each"]

DECIMALS: Final = 6
"""Scores are compared after this many decimals: floating point differs from machine to machine."""

TOGETHER: Final = 32
"""Vectors searched for at once: their scores do not fill the memory."""

FEW: Final = 1024
"""So many points are read as they are, without a closer look at their bounds."""

SPARSE: Final = 8
"""Where more than one in so many points remains to be read, all are, at once."""

AHEAD: Final = 0.1
"""Points whose bound is so near to the highest are looked at before all others."""

LIKELY: Final = 64
"""Skills whose boundaries a vector is nearest to passing are looked at before all others."""

_SLACK: Final = np.float32(10.0**-DECIMALS)
"""More than rounding adds to a score."""
_APART: Final = np.float32(1.5 * 10.0**-DECIMALS)
"""Two scores of one point may differ by so much: they come from products of different shapes."""

Ints = npt.NDArray[np.int64]
Scored = tuple[Ints, FloatArray]
"""Rows of a shelf, and their scores."""

Hits = Sequence[tuple[str, float]]
"""Digests and scores of the skills that a vector calls for, the best first."""

Found = TypeVar("Found")


class _TooMany(Exception):
    """Of so many points the scores are needed that all had better be made."""


def ask_each(
    shelves: Sequence[tuple[Shelf, FloatArray]],
    unit: FloatArray,
    ask: Callable[[Around], Found],
) -> list[Found]:
    """What `ask` finds around each of unit vectors (n, dim); nothing may change meanwhile.

    With each shelf come the cosines (p,) from which on its points count. `ask` is called again
    for a vector that a first look does not settle.
    """
    found: dict[int, Found] = {}
    left: list[int] = []
    for place, around in enumerate(_around(shelves, unit, whole=False)):
        try:
            found[place] = ask(around)
        except _TooMany:
            left.append(place)
    for place, around in zip(left, _around(shelves, unit[left], whole=True), strict=True):
        found[place] = ask(around)
    return [found[place] for place in range(len(unit))]


def _around(
    shelves: Sequence[tuple[Shelf, FloatArray]], unit: FloatArray, *, whole: bool
) -> Iterator[Around]:
    for start in range(0, len(unit), TOGETHER):
        part = unit[start : start + TOGETHER]
        some = [(_Together(shelf, part, whole=whole), least) for shelf, least in shelves]
        for row in range(len(part)):
            yield Around([_Near(of, row, least) for of, least in some])


class Around:
    """What is near one vector, on one shelf or more."""

    def __init__(self, nears: Sequence[_Near]) -> None:
        """The first shelf is of the skills that are here."""
        self._nears = nears

    def hits(self, margin: float = math.inf) -> Hits:
        """The skills with a point that reaches its least cosine, on whose side the vector lies.

        All of them, or at least all whose score is less than the best by no more than `margin`.
        """
        calls = [call for near in self._nears for call in near.calls(margin).items()]
        return sorted(calls, key=lambda call: (-call[1], call[0]))

    def above(self, score: float) -> Iterator[str]:
        """The skills that are here and can be routed to of which a point is nearer than this
        score; each at least once, the likeliest first."""
        return self._nears[0].above(score)


class _Together:
    """Several vectors, whose products with everything are made at once, when first needed."""

    def __init__(self, shelf: Shelf, unit: FloatArray, *, whole: bool) -> None:
        """With `whole`, or where the shelf has no sieve, all scores are made."""
        self.shelf, self.unit = shelf, unit
        self._whole = whole

    @cached_property
    def sieved(self) -> Sieved | None:
        """None where the scores themselves are to be made."""
        sieve = self.shelf.sieve
        if self._whole or sieve is None:
            return None
        return sieve.bounds(self.unit, len(self.shelf.owners))

    @cached_property
    def leaning(self) -> FloatArray | None:
        """(k,) the products of one vector alone, of which the first bounds say little, with the
        normals of boundaries: by these there are closer ones. None where there are not."""
        sieved = self.sieved
        if sieved is None or len(self.unit) > 1 or sieved.tells(0) or self.along is None:
            return None
        leaning: FloatArray = self.along[0]
        return leaning

    @cached_property
    def most(self) -> FloatArray:
        """(n, p) what no score is above; the scores themselves where there are no bounds."""
        sieve, sieved = self.shelf.sieve, self.sieved
        if sieve is None or sieved is None:
            return self.shelf.scores(self.unit)
        if self.leaning is not None:
            return sieve.closer(sieved, 0, self.shelf.slots, self.leaning)[None]
        return sieved.most

    @cached_property
    def along(self) -> FloatArray | None:
        """As `Shelf.along`."""
        return self.shelf.along(self.unit)

    @cached_property
    def sides(self) -> npt.NDArray[np.bool_] | None:
        """As `Shelf.sides`; None where no skill has a boundary."""
        return None if self.along is None else self.shelf.sides(self.along)


class _Near:
    """One vector among the points of a shelf."""

    def __init__(self, some: _Together, row: int, least: FloatArray) -> None:
        self._some, self._shelf, self._row, self._least = some, some.shelf, row, least
        self._query: FloatArray = some.unit[row]
        self._seen: Scored = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._bar = math.inf
        """Among those that were seen are all whose score is this or more."""

    def calls(self, margin: float) -> dict[str, float]:
        """The best score of each skill as of `Around.hits`, by digest."""
        if not self._query.any():
            return {}
        if margin < math.inf and self._told:
            found = self._calls(self._seen, margin) if self._see(self._high) else {}
            if found and self._see(max(found.values()) - margin):
                return self._calls(self._seen, margin)
        scored = self._read(self._rows(), self._least)
        if scored is None:
            raise _TooMany
        return self._calls(scored, margin)

    def above(self, score: float) -> Iterator[str]:
        """As `Around.above`."""
        # Mostly there are none; and where there are many the first will do.
        for scored in self._likeliest(score):
            if scored is None:
                raise _TooMany
            rows, scores = scored
            nearer = rows[scores > np.float32(score) + _APART]
            for row in nearer[np.isfinite(self._shelf.least.take(nearer))].tolist():
                yield self._shelf.owners[row]

    def _likeliest(self, score: float) -> Iterator[Scored | None]:
        """A few of the likeliest points, then all with this score or more; None for too many."""
        some = self._some
        settles = True
        if self._told or some.along is None:
            yield self._seen if self._see(max(self._high, score)) else None
        else:
            yield self._scored(self._shelf.likeliest(some.along[self._row], LIKELY))
            settles = some.leaning is not None
        yield self._seen if settles and self._see(score) else None

    @property
    def _told(self) -> bool:
        """Whether the first bounds, or the scores themselves, say much of this vector."""
        sieved = self._some.sieved
        return sieved is None or sieved.tells(self._row)

    @property
    def _most(self) -> FloatArray:
        most: FloatArray = self._some.most[self._row]
        return most

    @property
    def _high(self) -> float:
        return float(self._most.max(initial=-1)) - AHEAD

    def _see(self, bar: float) -> bool:
        """Whether all rows with this score or more could be read."""
        if bar < self._bar:
            least = np.float32(bar)
            scored = self._read(np.flatnonzero(self._most >= least - _SLACK), least)
            if scored is None:
                return False
            self._seen, self._bar = scored, bar
        return True

    def _rows(self) -> Ints:
        """Those that may reach their least cosine, and may have the vector on their side."""
        if self._some.sieved is not None and (sides := self._some.sides) is not None:
            rows = self._shelf.rows_of(np.flatnonzero(sides[self._row]))
            if rows is not None:
                return rows
        return np.flatnonzero(self._most >= self._least - _SLACK)

    def _read(self, rows: Ints, least: FloatArray | np.float32) -> Scored | None:
        """The scores of rows, at any rate of those that reach `least`, which is (p,) or one for
        all; None where they are too many."""
        sieved, shelf = self._some.sieved, self._shelf
        if sieved is not None and len(rows) > FEW:
            bar = least.take(rows) if isinstance(least, np.ndarray) else least
            rows = self._sifted(sieved, rows, bar)
            if len(rows) > FEW and SPARSE * len(rows) > len(shelf.owners):
                return None
        if sieved is None and len(rows) > FEW:
            return rows, np.round(self._most.take(rows), DECIMALS)
        # Even where all scores are known: those of a vector alone are these to the last digit.
        return self._scored(rows)

    def _scored(self, rows: Ints) -> Scored:
        scores = self._shelf.points.take(rows, axis=0) @ self._query
        return rows, np.round(scores, DECIMALS)

    def _sifted(self, sieved: Sieved, rows: Ints, bar: FloatArray | np.float32) -> Ints:
        kept = self._most.take(rows) >= bar - _SLACK
        rows, bar = rows[kept], bar[kept] if isinstance(bar, np.ndarray) else bar
        many = SPARSE * len(rows) > len(self._shelf.owners)
        if many or self._some.leaning is not None or self._shelf.sieve is None:
            return rows
        return self._shelf.sieve.left(sieved, self._row, rows, bar - _SLACK)

    def _calls(self, scored: Scored, margin: float) -> dict[str, float]:
        """Of these rows, those that call; of each skill the best score."""
        rows, scores = scored
        kept = scores >= self._least.take(rows)
        rows, scores = rows[kept], scores[kept]
        if len(rows) > FEW and (sides := self._some.sides) is not None:
            kept = sides[self._row].take(self._shelf.slots.take(rows))
            rows, scores = rows[kept], scores[kept]
        held = self._shelf.holds(self._query, rows)
        rows, scores = rows[held], scores[held]
        if len(rows) and margin < math.inf:
            kept = scores >= scores.max() - np.float32(margin) - _SLACK
            rows, scores = rows[kept], scores[kept]
        best: dict[str, float] = {}
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            digest = self._shelf.owners[row]
            best[digest] = max(score, best.get(digest, -math.inf))
        return best
