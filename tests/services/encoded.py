"""What stands for an encoder answers in the form of a real one, with vectors of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas import CompletedRow, EncodeCompleted
from services.runtime.vectors import to_stream

__all__ = ["encoded"]


def encoded(
    request: str,
    vectors: Sequence[npt.NDArray[np.float32]],
    rows: Sequence[CompletedRow],
    model: str,
) -> tuple[EncodeCompleted, bytes]:
    """The answer to a request of that id, a vector and a row a text; and its attachment."""
    made = np.stack(vectors)
    answer = EncodeCompleted(
        request_id=request,
        model=model,
        dim=made.shape[1],
        rows=tuple(rows),
        tokens=len(rows),
        queue_ms=0.0,
        compute_ms=0.0,
        attachments=("embedding",),
    )
    return answer, to_stream(made)
