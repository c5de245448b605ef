"""Vectors on the wire: an Arrow IPC stream with one column `embedding`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.errors import AttachmentError

__all__ = ["from_stream", "to_stream"]

COLUMN = "embedding"
FRAMED = range(64, 1 << 16)
"""Numbers of values for which a stream's frame is kept to be used again: writing one takes 0.1 ms.
Fewer might be found where they do not stand."""
FRAMES = 256
"""Shapes whose frames are kept."""
_shapes: dict[int, tuple[int, int]] = {}
"""Of streams that were read, by their length: another so long is likely framed as they are. Reading
one takes 45 µs, comparing its frame 2."""


def to_stream(vectors: NDArray[np.float32]) -> bytes:
    """Rows (n, dim) as one record batch of `fixed_size_list<float32>[dim]`."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise AttachmentError(f"vectors must be (rows, dim), not of shape {rows.shape}")
    if rows.size not in FRAMED:
        return _written(rows)
    before, after = _frame(*rows.shape)
    return b"".join((before, rows.data, after))


@lru_cache(maxsize=FRAMES)
def _frame(rows: int, dim: int) -> tuple[bytes, bytes]:
    """What stands before and behind the values: it depends on nothing but their number."""
    values = np.arange(1, rows * dim + 1, dtype=np.float32).reshape(rows, dim)
    before, found, after = _written(values).partition(values.tobytes())
    if not found:
        raise AttachmentError("the values do not lie in one piece of an Arrow stream")
    return before, after


def _written(rows: NDArray[np.float32]) -> bytes:
    # Buffers, here and below: `pa.array` and `to_numpy` import pandas wherever that is installed.
    values = pa.Array.from_buffers(pa.float32(), rows.size, [None, pa.py_buffer(rows)])
    column = pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    batch = pa.record_batch([column], names=[COLUMN])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def from_stream(stream: bytes) -> NDArray[np.float32]:
    """The rows (n, dim) float32 of an attachment, read-only; raises `AttachmentError`."""
    shape = _shapes.get(len(stream))
    if shape is not None:
        found = _framed(stream, *shape)
        if found is not None:
            return found
    read = _read(stream)
    if read.size in FRAMED:
        if len(_shapes) >= FRAMES:
            _shapes.clear()
        _shapes[len(stream)] = read.shape
    return read


def _framed(stream: bytes, rows: int, dim: int) -> NDArray[np.float32] | None:
    """The values of a stream that is the one written here in every byte but theirs."""
    before, after = _frame(rows, dim)
    begin, end = len(before), len(stream) - len(after)
    if end - begin != 4 * rows * dim or stream[:begin] != before or stream[end:] != after:
        return None
    flat = np.frombuffer(stream, np.float32, rows * dim, begin)
    if not flat.flags.aligned:  # it may lie anywhere in what was received
        flat = flat.copy()
    flat.flags.writeable = False
    return flat.reshape(rows, dim)


def _read(stream: bytes) -> NDArray[np.float32]:
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
        table.validate(full=True)
        kind = table.schema.field(COLUMN).type
        if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
            raise AttachmentError(f"column {COLUMN!r} is {kind}, not fixed_size_list<float32>")
        column = table.column(COLUMN).combine_chunks()
        rows, dim = len(column), kind.list_size
        values = column.values.slice(column.offset * dim, rows * dim)
    except (pa.ArrowException, KeyError, OSError, UnicodeDecodeError) as e:
        raise AttachmentError(f"the attachment is no stream of embeddings: {e}") from e
    if column.null_count or values.null_count:
        raise AttachmentError("the attachment has rows or values that are missing")
    if not len(values):
        return np.empty((rows, dim), np.float32)
    offset = values.offset * np.dtype(np.float32).itemsize
    flat = np.frombuffer(values.buffers()[1], np.float32, rows * dim, offset)
    flat.flags.writeable = False  # it may be the memory of what was received
    return flat.reshape(rows, dim)
