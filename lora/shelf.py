"""Points of skills as the rows of one matrix, with what must be known of each row to search it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray

__all__ = ["Shelf"]


class Shelf:
    """Rows are reused when their skill goes; the matrix grows by doubling."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._places: dict[str, list[int]] = {}
        self._free: list[int] = []
        self._matrix = np.zeros((0, dim), np.float32)
        self._least = np.zeros(0, np.float32)
        self._rank = np.zeros(0, np.float64)
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

    def rows(self, digest: str) -> list[int]:
        """The rows of a skill."""
        return self._places[digest]

    def put(self, digest: str, points: FloatArray, least: float, rank: float) -> None:
        """Give a skill rows for its points (k, dim)."""
        rows = self._take(len(points))
        self._matrix[rows] = points
        self._least[rows] = least
        self._rank[rows] = rank
        for row in rows:
            self.owners[row] = digest
        self._places[digest] = rows

    def drop(self, digest: str) -> None:
        """Free the rows of a skill."""
        rows = self._places.pop(digest)
        self._matrix[rows] = 0
        self._least[rows] = math.inf
        self._rank[rows] = math.inf
        for row in rows:
            self.owners[row] = ""
        self._free += rows

    def set_least(self, digest: str, least: float) -> None:
        """From now on the points of a skill count from this cosine on."""
        self._least[self._places[digest]] = least

    def scores(self, unit: FloatArray) -> FloatArray:
        """(n, p) the cosines of unit vectors (n, dim) to every row."""
        scores: FloatArray = (
            unit @ self.points.T if len(unit) > 1 else (self.points @ unit[0])[None]
        )
        return scores

    def _take(self, count: int) -> list[int]:
        rows = [self._free.pop() for _ in range(min(count, len(self._free)))]
        for _ in range(count - len(rows)):
            rows.append(len(self.owners))
            self.owners.append("")
        if len(self.owners) > len(self._matrix):
            grown = max(64, 2 * len(self._matrix), len(self.owners))
            more = grown - len(self._matrix)
            self._matrix = np.concatenate([self._matrix, np.zeros((more, self._dim), np.float32)])
            self._least = np.concatenate([self._least, np.full(more, np.inf, np.float32)])
            self._rank = np.concatenate([self._rank, np.full(more, np.inf)])
        return rows
