"""Bounds of what a sieve's columns leave out, by how it lies to the skills' boundaries.

Of a query q and a point p the sieve knows how long their rests are, what of them lies outside its
basis. The rest of a boundary's normal, made a unit vector m, is a third one there. Mostly a skill's
points lean its way, and on which side of its boundary a query lies is asked anyway:

    rest(q)·rest(p) ≤ (q·m) (p·m) + |what is left of rest(q)| |what is left of rest(p)|

where what is left is at right angles to m (Cauchy and Schwarz on that). For a skill without a
boundary, or with one whose normal has hardly a rest, it is the product of the two lengths.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray

__all__ = ["Lean"]

Ints = npt.NDArray[np.int64]

LEAST = 0.05
"""Share of the square of a normal's length that its rest should have: of less, the direction is
not known well enough."""

SLACK = 1e-5
"""Added to the square of what is left: more than what rounding takes from it."""


class Lean:
    """A row for each point, and one for each skill's slot."""

    def __init__(self, room: int, columns: int) -> None:
        """`room` for so many points; the sieve's basis has so many `columns`."""
        self._along = np.zeros(room, np.float32)
        self._left = np.zeros(room, np.float32)
        """Of each point's rest the part along the rest of its skill's normal, and what is left."""
        self._inside = np.zeros((0, columns), np.float32)
        self._scale = np.zeros(0, np.float32)
        """Of each slot's normal its columns, and one by the length of its rest; 0 for none."""

    def grow(self, room: int) -> None:
        """Have room for so many points."""
        more = np.zeros(room - len(self._along), np.float32)
        self._along = np.concatenate([self._along, more])
        self._left = np.concatenate([self._left, more])

    def put_normals(
        self, first: int, inside: FloatArray, whole: FloatArray, rest: FloatArray
    ) -> None:
        """The slots from `first` on have normals with these columns (k, columns) now; the squares
        of their lengths are `whole` (k,), zero for no boundary, of those of their rests `rest`."""
        end = first + len(inside)
        if end > len(self._scale):
            more = max(64, end - len(self._scale), len(self._scale))
            wide = np.zeros((more, self._inside.shape[1]), np.float32)
            self._inside = np.concatenate([self._inside, wide])
            self._scale = np.concatenate([self._scale, np.zeros(more, np.float32)])
        known = rest > LEAST * whole
        self._inside[first:end] = inside
        self._scale[first:end] = known / np.sqrt(np.where(known, rest, 1))

    def put(
        self, rows: slice | list[int], slots: slice | Ints, lengths: FloatArray, with_: FloatArray
    ) -> None:
        """These rows hold points of these slots now, whose normals were put: the lengths (k,) of
        their rests, and the products of these with the rests of the normals."""
        along = with_ * self._scale[slots]
        self._along[rows], self._left[rows] = along, _left(lengths, along)

    def most(self, slots: Ints, along: FloatArray, inside: FloatArray, rest: float) -> FloatArray:
        """(p,) what the product of a vector's rest with the rests of the points is not above.

        `slots` (p,) are those of the points; `along` (k,) the vector's products with the normals of
        the first slots, none beyond has one; `inside` (columns,) are its columns, and `rest` is the
        length of its rest.
        """
        known = min(len(along), len(self._scale))
        leaning = np.zeros(len(self._scale), np.float32)
        leaning[:known] = along[:known] - self._inside[:known] @ inside
        leaning *= self._scale
        left = _left(np.float32(rest), leaning)
        most: FloatArray = self._along[: len(slots)] * leaning.take(slots)
        most += self._left[: len(slots)] * left.take(slots)
        return most


def _left(lengths: FloatArray | np.float32, along: FloatArray) -> FloatArray:
    """What is left of lengths beside a part, rather too long."""
    square = lengths * lengths - along * along
    left: FloatArray = np.sqrt(np.maximum(square, 0) + np.float32(SLACK))
    return left
