"""Truncated singular value decomposition, exact or by a random sketch; NumPy only.

Exact: eigenvectors of the smaller Gram matrix, in float64. Singular values of a float32 matrix come
out right down to 1e-8 of the largest, below what float32 itself can tell apart, in a fraction of
the time of a full decomposition.

Sketch: randomised subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4),
for a few directions of a large matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.adapter import Adapter, FloatArray
from lora.errors import ConfigError

__all__ = ["LowRank", "rounding_floor", "truncated_svd"]

LARGE: Final = 1024
"""Smaller side of a matrix from which a sketch is quicker than the exact way."""

_OVERSAMPLE: Final = 12
_ITERATIONS: Final = 12
_SETTLED: Final = 1e-4
_FIRST: Final = 48

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LowRank:
    """The leading part of a matrix (m, n): `left · diag(values) · right`."""

    left: Floats
    """(m, k), orthonormal columns."""

    values: Floats
    """(k,) singular values, the largest first."""

    right: Floats
    """(k, n), orthonormal rows."""

    total: float
    """Energy of the whole matrix: the sum of all its squared singular values, Σσ² = ‖M‖²."""

    @property
    def rank(self) -> int:
        """k."""
        return len(self.values)

    @property
    def energy(self) -> float:
        """Energy of what is kept, Σσ² over k."""
        return float(np.square(self.values).sum())

    @property
    def explained(self) -> float:
        """Share of the energy that is kept, 0 to 1; 1 where there is none to keep."""
        return min(1.0, self.energy / self.total) if self.total else 1.0

    def adapter(self, alpha: float, *, strength: float = 1.0) -> Adapter:
        """The adapter that adds `strength` times this part of a weight (out, in) to its layer.

        A layer gives `x @ Wᵀ`, and an adapter adds `(alpha / rank) · x @ A @ B`. So the factors of
        Mᵀ = V·Σ·Uᵀ are divided by the scale, half each: applied at the card's own alpha / rank the
        part is added once, whatever alpha is.
        """
        root = np.sqrt(self.values * (abs(strength) * self.rank / alpha))
        a = self.right.T * root
        b = root[:, None] * self.left.T * np.sign(strength)
        return Adapter(
            np.ascontiguousarray(a, np.float32),
            np.ascontiguousarray(b, np.float32),
            self.rank,
            alpha,
        )


def truncated_svd(
    matrix: FloatArray,
    *,
    rank: int | None = None,
    energy: float | None = None,
    floor: float = 0.0,
    seed: int = 0,
) -> LowRank:
    """The leading singular triples of `matrix` (m, n).

    Args:
        rank: keep so many at most.
        energy: keep the fewest that hold this share of Σσ², above 0 to 1; 1 keeps all above
            `floor`. Both may be given; then the fewer are kept.
        floor: singular values up to here are held to be rounding, and left out.
        seed: of the sketch.

    Raises:
        ConfigError: rank or energy is out of range.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"rank must be at least 1, not {rank}")
    if energy is not None and not 0 < energy <= 1:
        raise ConfigError(f"energy must be above 0 and at most 1, not {energy}")
    total = float(np.einsum("ij,ij->", matrix, matrix, dtype=np.float64))
    smaller = min(matrix.shape)
    limit = smaller if rank is None else min(rank, smaller)
    wanted = 1.0 if energy is None else energy
    if smaller >= LARGE:
        width = limit if energy is None else min(limit, _FIRST)
        # A sketch pays as long as it is much narrower than the matrix.
        while width <= smaller // 16:
            found = _sketch(matrix, width, seed, total)
            enough = width == limit or found.explained >= wanted
            if enough or found.values[-1] <= floor:
                return _cut(found, limit, wanted, floor)
            width = min(limit, 2 * width)
    return _cut(_exact(matrix, total), limit, wanted, floor)


def rounding_floor(weight: FloatArray, unit: float) -> float:
    """The largest singular value that rounding alone is likely to give a change of `weight` (m, n).

    Rounding to a dtype of this unit roundoff errs by up to unit · |w| at each entry, independently;
    the standard deviations unit · |w| / √3 make a matrix S, and a random matrix of such entries has
    about the norm max‖row of S‖ + max‖column of S‖ (Bandeira and van Handel, arXiv 1408.6185).
    Twice that, as both weights were rounded.
    """
    squares = np.square(weight, dtype=np.float64)
    widest = np.sqrt(squares.sum(axis=1).max()) + np.sqrt(squares.sum(axis=0).max())
    return float(2 * unit / np.sqrt(3) * widest)


def _cut(found: LowRank, limit: int, wanted: float, floor: float) -> LowRank:
    squares = np.square(found.values)
    count = int((found.values > floor).sum())
    if wanted < 1:
        reached = int(np.searchsorted(np.cumsum(squares), wanted * found.total)) + 1
        count = min(count, reached)
    k = min(count, limit)
    return LowRank(found.left[:, :k], found.values[:k], found.right[:k], found.total)


def _exact(matrix: FloatArray, total: float) -> LowRank:
    wide = matrix.shape[0] <= matrix.shape[1]
    m = (matrix if wide else matrix.T).astype(np.float64)
    squares, vectors = np.linalg.eigh(m @ m.T)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    left = vectors[:, ::-1]
    right = np.divide(left.T @ m, values[:, None], out=np.zeros_like(m), where=values[:, None] > 0)
    return _turned(LowRank(left, values, right, total), wide)


def _sketch(matrix: FloatArray, width: int, seed: int, total: float) -> LowRank:
    wide = matrix.shape[0] <= matrix.shape[1]
    m = matrix if wide else matrix.T
    generator = np.random.default_rng(seed)
    q = m @ generator.standard_normal((m.shape[1], width + _OVERSAMPLE), np.float32)
    q, held = np.linalg.qr(q)[0], 0.0
    for _ in range(_ITERATIONS):
        back = m.T @ q
        before, held = held, float(np.square(back).sum(dtype=np.float64))
        if held - before <= _SETTLED * held:
            break
        q = np.linalg.qr(m @ np.linalg.qr(back)[0])[0]
    small, values, right = np.linalg.svd((q.T @ m).astype(np.float64), full_matrices=False)
    left = q.astype(np.float64) @ small
    return _turned(LowRank(left[:, :width], values[:width], right[:width], total), wide)


def _turned(found: LowRank, wide: bool) -> LowRank:
    if wide:
        return found
    return LowRank(found.right.T, found.values, found.left.T, found.total)
