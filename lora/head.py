"""Bends pooled embeddings by the heads of cards; NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lora.adapter import Adapter, FloatArray
from lora.errors import ModuleShapeError

__all__ = ["bend", "normalize"]


def normalize(vectors: npt.ArrayLike) -> FloatArray:
    """Each row of (n, d) divided by its Euclidean norm, float32; a zero row stays zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: FloatArray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def bend(vectors: npt.ArrayLike, adapters: Sequence[Adapter]) -> FloatArray:
    """(n, d) embeddings as the heads `adapters`, stacked, turn them; (n, d) float32.

    `e' = |e| · normalize(ê + Σ (alpha_i / rank_i) · ê @ A_i @ B_i)` with `ê = e / |e|`: a low-rank
    adapter (arXiv 2106.09685) on an identity layer behind the pooling, which keeps each vector's
    length. Without adapters the vectors come back as they are; a zero vector stays zero.

    Raises:
        ModuleShapeError: an adapter is not (d, r), (r, d).
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if not adapters:
        return rows
    width = rows.shape[-1]
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    bent = unit.copy()
    for adapter in adapters:
        if adapter.inputs != width or adapter.outputs != width:
            raise ModuleShapeError(
                f"a head of {adapter.inputs} to {adapter.outputs} dimensions cannot bend "
                f"embeddings of {width}"
            )
        a, b = adapter.factors
        bent += np.float32(adapter.scale) * (unit @ a @ b)
    bent_norms = np.linalg.norm(bent, axis=-1, keepdims=True)
    # Where the adapters cancel the vector exactly there is no direction left to keep.
    turned: FloatArray = np.divide(bent * norms, bent_norms, out=rows.copy(), where=bent_norms > 0)
    return turned
