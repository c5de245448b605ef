"""Bounds of cosines by a few coordinates: most points need not be looked at whole.

Base vectors have most of their length along few directions. In a basis V of those, with p1 = p V
and what is left of |p| beside it r, every cosine of unit vectors is at most

    q·p ≤ q1·p1 + r(q) r(p)    (Cauchy and Schwarz on the rest)

which is one product with 64 columns, the last of which holds r. Few points pass; of these 64 more
columns say more, and of those left the points themselves are read. Nothing that reaches its least
cosine is ever left out, whatever the basis; a bad one makes it slow, not wrong.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.lean import Lean

__all__ = ["Sieve", "Sieved"]

Ints = npt.NDArray[np.int64]

COLUMNS = 64
"""Of each of the two tables."""

SAMPLE = 4096
"""Points by which the basis is chosen at most."""

SLACK = 1e-5
"""More than what rounding takes from a bound."""

OUTSIDE = 0.5
"""Of the square of its length: with so much outside the basis, a vector's bounds say little."""

_REST = 1e-6
"""Added to the square of a rest: a difference of two near numbers may have come out too small."""


class Sieved:
    """Bounds of the cosines of some vectors to all points."""

    def __init__(self, table: FloatArray, coarse: FloatArray, fine: FloatArray) -> None:
        """`table` (p, 64) is the first; the vectors are (n, 64) as each of the two has points."""
        self._table = table
        self.coarse, self.fine = coarse, fine

    @cached_property
    def most(self) -> FloatArray:
        """(n, p) by the first table; made when it is first asked for."""
        coarse, table = self.coarse, self._table
        # A product with one row is slower as a matrix.
        most = coarse @ table.T if len(coarse) > 1 else (table @ coarse[0])[None]
        most += np.float32(SLACK)
        return most

    def tells(self, row: int) -> bool:
        """Whether bounds can be expected to say much of a vector: most of it lies in the basis."""
        rest = float(self.coarse[row, -1])
        return rest * rest < OUTSIDE


class Sieve:
    """Two tables beside the points; rows are filled as the points' are."""

    def __init__(self, points: FloatArray, room: int, slots: Ints, normals: FloatArray) -> None:
        """`points` (p, dim), normalised or zero, with `room` for so many rows; `slots` (p,) are
        those of their skills, whose boundaries have the `normals` (s, dim), zero for none."""
        self._first = COLUMNS - 1
        step = max(1, len(points) // SAMPLE)
        self._basis = _leading(points[::step][:SAMPLE], 2 * self._first)
        self._coarse = np.empty((room, COLUMNS), np.float32)
        self._fine = np.empty((room, COLUMNS), np.float32)
        self._lean = Lean(room, 2 * self._first)
        inside = normals @ self._basis
        self._put_normals(0, normals, inside)
        theirs = normals.take(slots, axis=0), inside.take(slots, axis=0)
        self._put(slice(0, len(points)), points, points @ self._basis, slots, theirs)

    def grow(self, room: int) -> None:
        """Have room for so many rows; those that are filled stay as they are."""
        for name in ("_coarse", "_fine"):
            table = getattr(self, name)
            wide = np.empty((room, COLUMNS), np.float32)
            wide[: len(table)] = table
            setattr(self, name, wide)
        self._lean.grow(room)

    @staticmethod
    def serves(dim: int) -> bool:
        """Whether the space is wide enough for this to save anything."""
        return dim >= 4 * COLUMNS

    def put(self, rows: list[int], points: FloatArray, slot: int, normal: FloatArray) -> None:
        """These rows hold these points (k, dim) now, of the skill in this slot; the normal of its
        boundary is (dim,), zero for none."""
        inside = np.concatenate([points, normal[None]]) @ self._basis
        self._put_normals(slot, normal[None], inside[-1:])
        theirs = normal[None], inside[-1:]
        self._put(rows, points, inside[:-1], slice(slot, slot + 1), theirs)

    def _put_normals(self, first: int, normals: FloatArray, inside: FloatArray) -> None:
        whole = np.einsum("ij,ij->i", normals, normals)
        rest = whole - np.einsum("ij,ij->i", inside, inside)
        self._lean.put_normals(first, inside, whole, rest)

    def _put(
        self,
        rows: slice | list[int],
        points: FloatArray,
        inside: FloatArray,
        slots: slice | Ints,
        theirs: tuple[FloatArray, FloatArray],
    ) -> None:
        """`theirs` are the normals (k, dim), or (1, dim) one for all, and what they have inside."""
        coarse, fine = self._parts(points, inside)
        self._coarse[rows], self._fine[rows] = coarse, fine
        normals, within = theirs
        along = np.einsum("ij,ij->i", points, normals) - np.einsum("ij,ij->i", inside, within)
        self._lean.put(rows, slots, fine[:, -1], along)

    def bounds(self, unit: FloatArray, count: int) -> Sieved:
        """Of the cosines of unit vectors (n, dim) to the first `count` points."""
        return Sieved(self._coarse[:count], *self._parts(unit, unit @ self._basis))

    def left(self, sieved: Sieved, row: int, rows: Ints, least: FloatArray | np.float32) -> Ints:
        """Of the points `rows` those whose cosine to vector `row` may be `least` or more.

        `least` is (k,), one for each of the rows, or one for all.
        """
        coarse, fine = sieved.coarse[row], sieved.fine[row]
        # The rest by the first table gives way to what the second says of it.
        most = sieved.most[row].take(rows) - coarse[-1] * self._coarse[:, -1].take(rows)
        most += self._fine.take(rows, axis=0) @ fine
        found: Ints = rows[most >= least]
        return found

    def closer(self, sieved: Sieved, row: int, slots: Ints, along: FloatArray) -> FloatArray:
        """(p,) bounds of the cosines of vector `row` to all points by all that is known of them.

        `slots` (p,) are those of the points, `along` (s,) the vector's products with the normals
        of boundaries, by slot, as far as there are any.
        """
        # The rests are bounded apart.
        coarse, fine = sieved.coarse[row].copy(), sieved.fine[row].copy()
        coarse[-1] = fine[-1] = 0
        inside = np.concatenate([coarse[:-1], fine[:-1]])
        most = self._lean.most(slots, along, inside, float(sieved.fine[row, -1]))
        most += self._coarse[: len(slots)] @ coarse
        most += self._fine[: len(slots)] @ fine
        most += np.float32(SLACK)
        return most

    def _parts(self, points: FloatArray, inside: FloatArray) -> tuple[FloatArray, FloatArray]:
        first, second = inside[:, : self._first], inside[:, self._first :]
        left = np.einsum("ij,ij->i", points, points) - np.einsum("ij,ij->i", first, first)
        less = left - np.einsum("ij,ij->i", second, second)
        return (
            np.concatenate([first, _root(left)], axis=1),
            np.concatenate([second, _root(less)], axis=1),
        )


def _root(squares: FloatArray) -> FloatArray:
    """(k, 1) lengths from their squares, rather too long."""
    roots: FloatArray = np.sqrt(np.maximum(squares, 0) + np.float32(_REST))[:, None]
    return roots


def _leading(points: FloatArray, count: int) -> FloatArray:
    """(dim, count) orthonormal columns: the leading right singular vectors of the points."""
    _, vectors = np.linalg.eigh((points.T @ points).astype(np.float64))
    leading: FloatArray = np.ascontiguousarray(vectors[:, ::-1][:, :count], np.float32)
    return leading
