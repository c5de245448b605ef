"""Points of skills as the rows of one matrix, with what must be known of each row to search it."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.boundary import Boundary
from lora.planes import Planes
from lora.sieve import Sieve

__all__ = ["Shelf"]

MANY: Final = 2048
"""Rows from which on there is a sieve."""

SETTLED: Final = 8192
"""Rows from which on its basis stays as it is."""

TOGETHER: Final = 32
"""Vectors whose scores are made at once."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Shelf:
    """Rows are reused when their skill goes; the matrix grows by doubling."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._places: dict[str, list[int]] = {}
        self._free: list[int] = []
        self._matrix = np.zeros((0, dim), np.float32)
        self._least = np.zeros(0, np.float32)
        self._rank = np.zeros(0, np.float64)
        self._slot = np.zeros(0, np.int64)
        self._slots: dict[str, int] = {}
        self._free_slots: list[int] = []
        self._rows: list[Ints] = []
        """Of each slot the rows of its skill; none where it is free."""
        self._planes = Planes(dim)
        self.sieve: Sieve | None = None
        """Where there are many points: what spares reading them all."""
        self.owners: list[str] = []
        """The digest of the skill of each row, empty where the row is free."""

    def __contains__(self, digest: object) -> bool:
        return digest in self._places

    def __len__(self) -> int:
        """How many skills have rows."""
        return len(self._places)

    @property
    def points(self) -> FloatArray:
        """(p, dim), normalised; zero where the row is free."""
        return self._matrix[: len(self.owners)]

    @property
    def least(self) -> FloatArray:
        """(p,) the least cosine at which each row counts; infinite where none is enough."""
        return self._least[: len(self.owners)]

    @property
    def rank(self) -> npt.NDArray[np.float64]:
        """(p,) the rank of each row's skill, infinite where the row is free."""
        return self._rank[: len(self.owners)]

    @property
    def slots(self) -> Ints:
        """(p,) the slot of each row's skill."""
        return self._slot[: len(self.owners)]

    def rows(self, digest: str) -> list[int]:
        """The rows of a skill."""
        return self._places[digest]

    def put(
        self,
        digest: str,
        points: FloatArray,
        least: float,
        rank: float,
        boundary: Boundary | None = None,
    ) -> None:
        """Give a skill rows for its points (k, dim)."""
        rows = self._take(len(points))
        slot = self._free_slots.pop() if self._free_slots else len(self._rows)
        self._rows[slot : slot + 1] = [np.array(rows, np.int64)]
        self._matrix[rows] = points
        self._least[rows] = least
        self._rank[rows] = rank
        self._slot[rows] = slot
        self._planes.put(slot, boundary)
        for row in rows:
            self.owners[row] = digest
        self._places[digest], self._slots[digest] = rows, slot
        if self.sieve is not None:
            self.sieve.put(rows, points, slot, self._planes.normal(slot))

    def drop(self, digest: str) -> None:
        """Free the rows of a skill."""
        rows, slot = self._places.pop(digest), self._slots.pop(digest)
        self._matrix[rows] = 0
        self._least[rows] = math.inf
        self._rank[rows] = math.inf
        self._planes.put(slot, None)
        for row in rows:
            self.owners[row] = ""
        self._free += rows
        self._free_slots.append(slot)
        self._rows[slot] = np.zeros(0, np.int64)

    def set_least(self, digest: str, least: float) -> None:
        """From now on the points of a skill count from this cosine on."""
        self._least[self._places[digest]] = least

    def scores(self, unit: FloatArray) -> FloatArray:
        """(n, p) the cosines of unit vectors (n, dim) to every row."""
        scores: FloatArray = (
            unit @ self.points.T if len(unit) > 1 else (self.points @ unit[0])[None]
        )
        return scores

    def best(self, unit: FloatArray) -> FloatArray:
        """(n,) the best cosine of unit vectors (n, dim) to any row that counts; -1 with none."""
        best = np.full(len(unit), -1, np.float32)
        dead = ~np.isfinite(self.least)
        if dead.all():
            return best
        for start in range(0, len(unit), TOGETHER):
            part = self.scores(unit[start : start + TOGETHER])
            part[:, dead] = -1
            best[start : start + TOGETHER] = part.max(axis=1)
        return best

    def along(self, unit: FloatArray) -> FloatArray | None:
        """(n, k) the products of unit vectors (n, dim) with the normals of the boundaries of the
        first slots; None where no skill has a boundary, and none beyond these k has."""
        return self._planes.along(unit, len(self._rows))

    def sides(self, along: FloatArray) -> Bools:
        """(n, slots) whether vectors with these products lie on the sides of skills, or nearly."""
        return self._planes.sides(along, len(self._rows))

    def likeliest(self, along: FloatArray, count: int) -> Ints:
        """The rows of about so many skills of whose boundaries a vector with these products (k,)
        lies on the right side, or nearest to it."""
        parts = [self._rows[slot] for slot in self._planes.likeliest(along, count).tolist()]
        return np.concatenate(parts)

    def holds(self, query: FloatArray, rows: Ints) -> Bools:
        """(k,) whether a unit vector (dim,) lies on the side of the skill of each row."""
        return self._planes.holds(query, self._slot.take(rows))

    def rows_of(self, slots: Ints) -> Ints | None:
        """The rows of the skills in these slots; None where most skills are among them."""
        if 2 * len(slots) > len(self._rows):
            return None
        parts = [self._rows[slot] for slot in slots.tolist()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _take(self, count: int) -> list[int]:
        rows = [self._free.pop() for _ in range(min(count, len(self._free)))]
        for _ in range(count - len(rows)):
            rows.append(len(self.owners))
            self.owners.append("")
        if len(self.owners) > len(self._matrix):
            self._grow(max(64, 2 * len(self._matrix), len(self.owners)))
        return rows

    def _grow(self, room: int) -> None:
        before, more = self._matrix, room - len(self._matrix)
        # Zeros: rows that are taken and not yet filled must not bend what is learnt of the others.
        self._matrix = np.zeros((room, self._dim), np.float32)
        self._matrix[: len(before)] = before
        self._least = np.concatenate([self._least, np.full(more, np.inf, np.float32)])
        self._rank = np.concatenate([self._rank, np.full(more, np.inf)])
        self._slot = np.concatenate([self._slot, np.zeros(more, np.int64)])
        if self.sieve is not None and len(before) > SETTLED:
            self.sieve.grow(room)
        elif len(before) >= MANY and Sieve.serves(self._dim):
            normals = self._planes.normals(len(self._rows))
            self.sieve = Sieve(before, room, self._slot[: len(before)], normals)
