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
        slack = SLACK * float(np.linalg.norm(boundary.normal.astype(np.float64)))
        self._low[row], self._high[row] = boundary.offset - slack, boundary.offset + slack

    def sides(self, unit: FloatArray, count: int) -> Bools | None:
        """(n, count) whether unit vectors (n, dim) lie on the sides of the first `count` rows, or
        nearly; None where no row has a boundary."""
        if not self._boundaries:
            return None
        known = min(count, len(self._low))
        normals = self._normals[:known]
        along = unit @ normals.T if len(unit) > 1 else (normals @ unit[0])[None]
        sides = np.ones((len(unit), count), bool)
        np.greater_equal(along, self._low[:known], out=sides[:, :known])
        return sides

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
