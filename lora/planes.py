"""The boundaries of many skills as one matrix: whose side a vector lies on, by one product."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.boundary import Boundary

__all__ = ["Planes", "Sides"]

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
        self._held: set[int] = set()

    def put(self, row: int, boundary: Boundary | None) -> None:
        """Give a row its boundary, or take it away."""
        if boundary is None:
            if row in self._held:
                self._held.discard(row)
                self._normals[row], self._low[row], self._high[row] = 0, -math.inf, -math.inf
            return
        if row >= len(self._low):
            self._grow(max(64, row + 1, 2 * len(self._low)))
        self._held.add(row)
        self._normals[row] = boundary.normal
        slack = SLACK * float(np.linalg.norm(boundary.normal.astype(np.float64)))
        self._low[row], self._high[row] = boundary.offset - slack, boundary.offset + slack

    def sides(self, unit: FloatArray, count: int) -> Sides | None:
        """Of unit vectors (n, dim) and the first `count` rows; None where none has a boundary."""
        if not self._held:
            return None
        known = min(count, len(self._low))
        normals = self._normals[:known]
        along = unit @ normals.T if len(unit) > 1 else (normals @ unit[0])[None]
        held = np.ones((len(unit), count), bool)
        np.greater_equal(along, self._low[:known], out=held[:, :known])
        return Sides(held, along, self._high)

    def _grow(self, room: int) -> None:
        more = room - len(self._low)
        none = np.full(more, -np.inf, np.float32)
        self._normals = np.concatenate([self._normals, np.zeros((more, self._dim), np.float32)])
        self._low, self._high = (
            np.concatenate([self._low, none]),
            np.concatenate([self._high, none]),
        )


class Sides(NamedTuple):
    """Whose sides some vectors lie on."""

    held: npt.NDArray[np.bool_]
    """(n, count) where they do, or nearly."""
    along: FloatArray
    """(n, k) their places along the normals of the first k rows."""
    high: FloatArray
    """(k,) or longer: from here on they do without doubt."""

    def doubtful(self, row: int, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(j,) which of these slots must be asked again whether vector `row` is on their side."""
        found = np.zeros(len(slots), bool)
        known = slots < self.along.shape[1]
        within = slots[known]
        found[known] = self.along[row].take(within) < self.high.take(within)
        return found
