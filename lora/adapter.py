"""One low-rank pair of matrices, in the dtype it is stored in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lora.errors import CardInvalidError, CardNotFiniteError

__all__ = [
    "DTYPES",
    "HEAD",
    "MAX_ALPHA",
    "MAX_RANK",
    "MAX_SCALE",
    "Adapter",
    "from_bfloat16",
    "from_int8",
    "to_bfloat16",
    "to_int8",
]

HEAD: Final = "embedding"
"""The target name of an adapter on the pooled embedding."""

MAX_RANK: Final = 4096
MAX_ALPHA: Final = 65536.0

DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    # NumPy has no bfloat16: its raw bits travel as unsigned 16-bit integers.
    "bfloat16": np.dtype("<u2"),
    # Steps from -127 to 127; how wide a step is says the scale of its rank.
    "int8": np.dtype("i1"),
}
"""The dtypes a matrix may be stored in, and the NumPy dtype that carries each."""

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

FloatArray = npt.NDArray[np.float32]

_STEPS: Final = 127
_LARGEST: Final = float(np.finfo(np.float32).max)
_SMALLEST: Final = np.finfo(np.float32).tiny

MAX_SCALE: Final = float(np.nextafter(np.float32(_LARGEST / _STEPS), np.float32(0)))
"""The widest step of an int8 matrix, with which its largest value is still finite."""


def to_bfloat16(values: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """The raw bits of `values` rounded to bfloat16 (to nearest, ties to even); any shape."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """The float32 values of raw bfloat16 `bits`, exactly; any shape."""
    return np.ascontiguousarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_int8(values: npt.ArrayLike, axis: int) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """`values` (two dimensions) in steps of -127 to 127, and the width of the steps.

    Each slice across `axis` has a scale of its own, so that the largest of its values is 127 steps;
    the scales, float32, keep `axis` with the length 1. No value moves by more than half a step.
    """
    rows = np.asarray(values, dtype=np.float64)
    widest = np.abs(rows).max(axis=axis, keepdims=True) / _STEPS
    # A slice of zeros has any scale, and so has one too small to have one of its own.
    scale = np.where(widest > 0, np.clip(widest, _SMALLEST, MAX_SCALE), 1.0).astype(np.float32)
    steps = np.clip(np.rint(rows / scale), -_STEPS, _STEPS)
    return steps.astype(np.int8), scale


def from_int8(steps: npt.NDArray[np.int8], scale: FloatArray) -> FloatArray:
    """The float32 values of `steps` whose widths are `scale`."""
    return np.multiply(steps, scale, dtype=np.float32)


@dataclass(frozen=True, eq=False, slots=False)
class Adapter:
    """The pair (A, B) that adds `(alpha / rank) · x @ A @ B` to what a Linear layer gives.

    `a` is (in, rank) and `b` is (rank, out), both row-major, as they are stored: float32, float16,
    uint16 holding the raw bits of bfloat16, or int8. Those of int8 have a scale a rank: `a_scale`
    (1, rank) and `b_scale` (rank, 1), float32, and mean `a * a_scale` and `b * b_scale`. Matrices
    of a card that was read are views of its mapping. For arithmetic in NumPy use `factors`, which
    is float32 whatever is stored.
    """

    a: npt.NDArray[np.generic]
    b: npt.NDArray[np.generic]
    rank: int
    alpha: float
    a_scale: FloatArray | None = None
    b_scale: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.a.dtype not in _NAMES or self.a.dtype != self.b.dtype:
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
        self._check_scales()

    def _check_scales(self) -> None:
        given = (self.a_scale, self.b_scale)
        if self.dtype != "int8":
            if any(scale is not None for scale in given):
                raise CardInvalidError(f"only an int8 adapter has scales, not a {self.dtype} one")
            return
        for role, scale, shape in zip("AB", given, ((1, self.rank), (self.rank, 1)), strict=True):
            if scale is None or scale.dtype != np.float32 or scale.shape != shape:
                found = "none" if scale is None else f"{scale.dtype} {scale.shape}"
                raise CardInvalidError(
                    f"an int8 adapter of rank {self.rank} needs float32 scales {shape} "
                    f"for {role}, not {found}"
                )

    @property
    def dtype(self) -> str:
        """The dtype the matrices are stored in: float32, float16, bfloat16 or int8."""
        return _NAMES[self.a.dtype]

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
        """Bytes of both matrices in a model, float32 whatever they are stored in."""
        return 4 * int(self.a.size + self.b.size)

    @property
    def stored(self) -> int:
        """Bytes of both matrices in the card's file, with their scales."""
        return sum(int(matrix.nbytes) for matrix in self.matrices.values())

    @property
    def matrices(self) -> dict[str, npt.NDArray[np.generic]]:
        """What is stored, by its role in the file: `a` and `b`; of int8 their scales, too."""
        found = {"a": self.a, "b": self.b}
        if self.a_scale is not None and self.b_scale is not None:
            found |= {"a_scale": self.a_scale, "b_scale": self.b_scale}
        return found

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What others made of the matrices, by their names for it: it goes with the adapter."""
        return {}

    @cached_property
    def factors(self) -> tuple[FloatArray, FloatArray]:
        """(A, B) in float32: the very matrices where they are stored so, else a copy kept here."""
        return _float32(self.a, self.a_scale), _float32(self.b, self.b_scale)

    def let_go(self) -> None:
        """Forget `factors` where they are a copy; they are made again when they are asked for."""
        self.__dict__.pop("factors", None)

    def astype(self, dtype: str) -> Adapter:
        """The same adapter stored as `dtype`, rounded to nearest where it is narrower."""
        if dtype not in DTYPES:
            raise CardInvalidError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        if dtype == self.dtype:
            return self
        a, b = self.factors
        if dtype == "bfloat16":
            return Adapter(to_bfloat16(a), to_bfloat16(b), self.rank, self.alpha)
        if dtype == "int8":
            (a8, a_scale), (b8, b_scale) = to_int8(a, axis=0), to_int8(b, axis=1)
            return Adapter(a8, b8, self.rank, self.alpha, a_scale, b_scale)
        return Adapter(a.astype(DTYPES[dtype]), b.astype(DTYPES[dtype]), self.rank, self.alpha)

    def check_finite(self, name: str) -> None:
        """Raise `CardNotFiniteError` for NaN or infinity; `name` goes into the message.

        Of int8 the scales are looked at, which must be above 0, and small enough that every value
        is finite; a step of -128 is none (`CardInvalidError`).
        """
        for role, matrix in self.matrices.items():
            if matrix.dtype == DTYPES["bfloat16"]:
                finite = bool(np.all((matrix.view(np.uint16) & np.uint16(0x7F80)) != 0x7F80))
            else:
                finite = matrix.dtype == DTYPES["int8"] or bool(np.isfinite(matrix).all())
            if not finite:
                said = role.upper() if len(role) == 1 else role
                raise CardNotFiniteError(f"matrix {said} of {name!r} holds NaN or infinity")
            if matrix.dtype == DTYPES["int8"] and bool(np.any(matrix == -1 - _STEPS)):
                raise CardInvalidError(f"matrix {role.upper()} of {name!r} holds the step -128")
        for scale in (self.a_scale, self.b_scale):
            if scale is not None and not 0 < scale.min() <= scale.max() <= MAX_SCALE:
                raise CardInvalidError(
                    f"a scale of {name!r} is not above 0 and at most {MAX_SCALE:.4g}"
                )


def _float32(matrix: npt.NDArray[np.generic], scale: FloatArray | None) -> FloatArray:
    if scale is not None:
        return from_int8(matrix.view(np.int8), scale)
    if matrix.dtype == np.uint16:
        return from_bfloat16(matrix.view(np.uint16))
    return np.asarray(matrix, dtype=np.float32)
