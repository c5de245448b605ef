"""The boundaries of many skills as one matrix: whose side a vector lies on, by one product."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.boundary import Boundary

__all__ = ["Planes"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SLACK = 1e-5
"""Of a normal's length: more than what two ways to multiply differ by."""


class Planes:
    """A row for each skill; those without a boundary have everything on their side."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._normals = np.zeros((0, dim), np.float32)
        self._low = np.zeros(0, np.float32)
        self._high = np.zeros(0, np.float32)
        """Below the one a vector is not on a skill's side, from the other on it is."""
        self._boundaries: dict[int, Boundary] = {}

    def put(self, row: int, boundary: Boundary | None) -> None:
        """Give a row its boundary, or take it away."""
        if boundary is None:
            if self._boundaries.pop(row, None) is not None:
                self._normals[row], self._low[row], self._high[row] = 0, -math.inf, -math.inf
            return
        if row >= len(self._low):
            self._grow(max(64, row + 1, 2 * len(self._low)))
        self._boundaries[row] = boundary
        self._normals[row] = boundary.normal
        slack = SLACK * math.sqrt(float(boundary.normal @ boundary.normal))
        self._low[row], self._high[row] = boundary.offset - slack, boundary.offset + slack

    def normals(self, count: int) -> FloatArray:
        """(count, dim) the normals of the first rows; zero where there is no boundary."""
        known = self._normals[:count]
        none = np.zeros((count - len(known), self._dim), np.float32)
        return np.concatenate([known, none])

    def normal(self, row: int) -> FloatArray:
        """(dim,) the normal of a row; zero where it has no boundary."""
        known = row < len(self._normals)
        return self._normals[row] if known else np.zeros(self._dim, np.float32)

    def along(self, unit: FloatArray, count: int) -> FloatArray | None:
        """(n, k) the products of unit vectors (n, dim) with the normals of the first `count` rows,
        or of so many of them that none of the others has a boundary; None where none at all has."""
        if not self._boundaries:
            return None
        normals = self._normals[:count]
        return unit @ normals.T if len(unit) > 1 else (normals @ unit[0])[None]

    def sides(self, along: FloatArray, count: int) -> Bools:
        """(n, count) whether vectors with these products lie on the sides of the first `count`
        rows, or nearly."""
        sides = np.ones((len(along), count), bool)
        known = along.shape[1]
        np.greater_equal(along, self._low[:known], out=sides[:, :known])
        return sides

    def likeliest(self, along: FloatArray, count: int) -> Ints:
        """About `count` rows on whose sides, or nearest to them, a vector with these products (k,)
        lies."""
        low = self._low[: len(along)]
        # Those without a boundary have everything on their side, which says nothing.
        inward = np.where(low > -np.inf, along - low, -np.inf)
        if len(inward) <= count:
            return np.arange(len(inward))
        return np.argpartition(inward, -count)[-count:]

    def holds(self, query: FloatArray, rows: Ints) -> Bools:
        """(k,) whether a unit vector (dim,) lies on the sides of these rows, as the boundaries
        themselves say it."""
        held = np.ones(len(rows), bool)
        if not self._boundaries:
            return held
        known = np.flatnonzero(rows < len(self._low))
        rows = rows.take(known)
        along = self._normals.take(rows, axis=0) @ query
        held[known] = along >= self._low.take(rows)
        for place in np.flatnonzero(held[known] & (along < self._high.take(rows))).tolist():
            boundary = self._boundaries[int(rows[place])]
            held[known[place]] = boundary.holds(query[None])[0]
        return held

    def _grow(self, room: int) -> None:
        more = room - len(self._low)
        none = np.full(more, -np.inf, np.float32)
        self._normals = np.concatenate([self._normals, np.zeros((more, self._dim), np.float32)])
        self._low, self._high = (
            np.concatenate([self._low, none]),
            np.concatenate([self._high, none]),
        )
