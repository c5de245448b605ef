"""Vectors on the wire: an Arrow IPC stream with one column `embedding`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.errors import AttachmentError

__all__ = ["from_stream", "to_stream"]

COLUMN = "embedding"


def to_stream(vectors: NDArray[np.float32]) -> bytes:
    """Rows (n, dim) as one record batch of `fixed_size_list<float32>[dim]`."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise AttachmentError(f"vectors must be (rows, dim), not of shape {rows.shape}")
    values = pa.array(rows.reshape(-1), type=pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    batch = pa.record_batch([column], names=[COLUMN])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def from_stream(stream: bytes) -> NDArray[np.float32]:
    """The rows (n, dim) float32 of an attachment; raises `AttachmentError`."""
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
        table.validate(full=True)
        kind = table.schema.field(COLUMN).type
        if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
            raise AttachmentError(f"column {COLUMN!r} is {kind}, not fixed_size_list<float32>")
        column = table.column(COLUMN).combine_chunks()
        flat: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    except (pa.ArrowException, KeyError) as e:
        raise AttachmentError(f"the attachment is no stream of embeddings: {e}") from e
    return flat.reshape(table.num_rows, kind.list_size)
