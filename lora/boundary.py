"""A plane in the base space with a skill's queries on one side: what cosines alone cannot tell.

Two domains may lie in the same direction from everything else, and a little apart. The best cosine
to a skill's prototypes says that a query is of their kind, the side of the plane whose it is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.adapter import FloatArray
from lora.errors import CardInvalidError
from lora.head import normalize

__all__ = ["BOUNDARY", "WIDEST", "Boundary", "sides"]

BOUNDARY: Final = "routing.boundary"
"""Under this key a card's extra strings hold its boundary."""

WIDEST: Final = 2900
"""Wider spaces have no boundary: it would not fit into one of a card's strings."""


@dataclass(frozen=True, eq=False)
class Boundary:
    """A query with unit vector x is on the skill's side where `x · normal >= offset`."""

    normal: FloatArray
    """(dim,) float32 with the precision of float16, as it is written."""
    offset: float

    def holds(self, vectors: FloatArray) -> npt.NDArray[np.bool_]:
        """(n,) whether unit vectors (n, dim) lie on the skill's side."""
        side: npt.NDArray[np.bool_] = vectors @ self.normal >= np.float32(self.offset)
        return side

    def to_text(self) -> str:
        """Base64 of the offset (little-endian float32), then the normal (float16)."""
        raw = np.array([self.offset], "<f4").tobytes() + self.normal.astype("<f2").tobytes()
        return base64.b64encode(raw).decode()

    @classmethod
    def from_text(cls, text: str, dim: int) -> Boundary:
        """Read what `to_text` wrote; raises `CardInvalidError`."""
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CardInvalidError("a boundary should be base64") from error
        if len(raw) != 4 + 2 * dim:
            raise CardInvalidError(f"a boundary should hold {4 + 2 * dim} bytes, not {len(raw)}")
        normal = np.frombuffer(raw[4:], "<f2").astype(np.float32)
        offset = float(np.frombuffer(raw[:4], "<f4")[0])
        if not (np.isfinite(normal).all() and np.isfinite(offset)):
            raise CardInvalidError("a boundary should hold finite numbers")
        return cls(normal, offset)

    @classmethod
    def of(cls, extra: Mapping[str, str], dim: int) -> Boundary | None:
        """The boundary among a card's extra strings; None where it has none."""
        text = extra.get(BOUNDARY)
        return None if text is None else cls.from_text(text, dim)


def sides(vectors: FloatArray, boundary: Boundary | None) -> npt.NDArray[np.bool_]:
    """(n,) whether vectors (n, dim) of any length lie on the side; all without a boundary."""
    if boundary is None:
        return np.ones(len(vectors), bool)
    return boundary.holds(normalize(vectors))
