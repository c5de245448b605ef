"""One low-rank pair of matrices, in the dtype it is stored in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.errors import CardInvalidError, CardNotFiniteError

__all__ = ["DTYPES", "HEAD", "MAX_ALPHA", "MAX_RANK", "Adapter", "from_bfloat16", "to_bfloat16"]

HEAD: Final = "embedding"
"""The target name of an adapter on the pooled embedding."""

MAX_RANK: Final = 4096
MAX_ALPHA: Final = 65536.0

DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    # NumPy has no bfloat16: its raw bits travel as unsigned 16-bit integers.
    "bfloat16": np.dtype("<u2"),
}
"""The dtypes a matrix may be stored in, and the NumPy dtype that carries each."""

FloatArray = npt.NDArray[np.float32]


def to_bfloat16(values: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """The raw bits of `values` rounded to bfloat16 (to nearest, ties to even); any shape."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """The float32 values of raw bfloat16 `bits`, exactly; any shape."""
    return np.ascontiguousarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


@dataclass(frozen=True, eq=False, slots=False)
class Adapter:
    """The pair (A, B) that adds `(alpha / rank) · x @ A @ B` to what a Linear layer gives.

    `a` is (in, rank) and `b` is (rank, out), both row-major, as they are stored: float32, float16,
    or uint16 holding the raw bits of bfloat16. Matrices of a card that was read are views of its
    mapping. For arithmetic in NumPy use `factors`, which is float32 whatever is stored.
    """

    a: npt.NDArray[np.generic]
    b: npt.NDArray[np.generic]
    rank: int
    alpha: float

    def __post_init__(self) -> None:
        names = {dtype: name for name, dtype in DTYPES.items()}
        if self.a.dtype not in names or self.a.dtype != self.b.dtype:
            raise CardInvalidError(
                f"an adapter's matrices must share one dtype of {', '.join(DTYPES)} "
                f"(bfloat16 as uint16), not {self.a.dtype} and {self.b.dtype}"
            )
        if type(self.rank) is not int or not 1 <= self.rank <= MAX_RANK:
            raise CardInvalidError(f"rank must be from 1 to {MAX_RANK}, not {self.rank!r}")
        if not (math.isfinite(self.alpha) and 0 < self.alpha <= MAX_ALPHA):
            raise CardInvalidError(f"alpha must be above 0 and at most {MAX_ALPHA}: {self.alpha!r}")
        shapes = self.a.shape, self.b.shape
        if (
            self.a.ndim != 2
            or self.b.ndim != 2
            or self.a.shape[1] != self.rank
            or self.b.shape[0] != self.rank
            or 0 in (*self.a.shape, *self.b.shape)
        ):
            raise CardInvalidError(
                f"an adapter of rank {self.rank} needs shapes (in, {self.rank}) and "
                f"({self.rank}, out), not {shapes[0]} and {shapes[1]}"
            )

    @property
    def dtype(self) -> str:
        """The dtype the matrices are stored in: float32, float16 or bfloat16."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.a.dtype)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def inputs(self) -> int:
        """The width of the layer's input."""
        return int(self.a.shape[0])

    @property
    def outputs(self) -> int:
        """The width of the layer's output."""
        return int(self.b.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of both matrices as stored."""
        return int(self.a.nbytes + self.b.nbytes)

    @cached_property
    def factors(self) -> tuple[FloatArray, FloatArray]:
        """(A, B) in float32: the very matrices where they are stored so, else a copy kept here."""
        return _float32(self.a), _float32(self.b)

    def astype(self, dtype: str) -> Adapter:
        """The same adapter stored as `dtype`, rounded to nearest where it is narrower."""
        if dtype not in DTYPES:
            raise CardInvalidError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        if dtype == self.dtype:
            return self
        a, b = self.factors
        if dtype == "bfloat16":
            return Adapter(to_bfloat16(a), to_bfloat16(b), self.rank, self.alpha)
        return Adapter(a.astype(DTYPES[dtype]), b.astype(DTYPES[dtype]), self.rank, self.alpha)

    def check_finite(self, name: str) -> None:
        """Raise `CardNotFiniteError` for NaN or infinity; `name` goes into the message."""
        for role, matrix in (("A", self.a), ("B", self.b)):
            if matrix.dtype == DTYPES["bfloat16"]:
                finite = bool(np.all((matrix.view(np.uint16) & np.uint16(0x7F80)) != 0x7F80))
            else:
                finite = bool(np.all(np.isfinite(matrix)))
            if not finite:
                raise CardNotFiniteError(f"matrix {role} of {name!r} holds NaN or infinity")


def _float32(matrix: npt.NDArray[np.generic]) -> FloatArray:
    if matrix.dtype == np.uint16:
        return from_bfloat16(matrix.view(np.uint16))
    return np.asarray(matrix, dtype=np.float32)
