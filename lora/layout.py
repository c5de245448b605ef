"""How a card lies in its Arrow IPC file: one row a matrix, every matrix on a 64-byte boundary."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lora.adapter import Adapter, FloatArray
from lora.arrowfile import MAGIC
from lora.errors import (
    CardCorruptError,
    CardDigestError,
    CardError,
    CardInvalidError,
    CardNotFoundError,
    CardTooLargeError,
)

__all__ = [
    "ALIGNMENT",
    "FORMATS",
    "JSON",
    "KEYS",
    "PAIR",
    "SCALES",
    "SCHEMA",
    "TEXTS",
    "check_digest",
    "digest_of_bytes",
    "encode",
    "format_of",
    "mapped",
    "sync_folder",
    "write_atomically",
]

ALIGNMENT: Final = 64
FORMATS: Final = ("1", "2")
"""The versions of the format. A card is written in the first unless a matrix is int8: who reads
that one alone reads what it knows, and refuses the rest."""

SCHEMA: Final = pa.schema(
    [
        pa.field("module", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),  # a, b, prototypes; of int8 a_scale, b_scale
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("cols", pa.int32(), nullable=False),
        pa.field("alpha", pa.float64(), nullable=False),  # 0 for prototypes
        # Row-major little-endian values, zeros after them up to a multiple of 64 bytes.
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)

SCALES: Final = ("a_scale", "b_scale")
PAIR: Final = ("a", "b", *SCALES)

TEXTS: Final = ("name", "description", "created", "author", "data_digest", "trainer")
JSON: Final = (
    "version",
    "rank",
    "alpha",
    "target_modules",
    "base_model",
    "dim",
    "applies_to",
    "threshold",
    "metrics",
    "parents",
    "extra",
)
KEYS: Final = frozenset({"format_version", "pad", *TEXTS, *JSON})

_Row = tuple[str, str, str, int, int, float, npt.NDArray[Any]]


def digest_of_bytes(data: bytes | pa.Buffer) -> str:
    """`sha256:` and the 64 hexadecimal digits over `data`."""
    return "sha256:" + hashlib.sha256(memoryview(data)).hexdigest()


def check_digest(wanted: str | None, found: str, what: str) -> None:
    """Raise `CardDigestError` unless nothing was asked for or exactly this was found."""
    if wanted is not None and wanted != found:
        raise CardDigestError(f"{what} has the digest {found}, not {wanted}")


@contextlib.contextmanager
def mapped(path: Path, max_bytes: int) -> Iterator[pa.Buffer]:
    """The file as one read-only mapped buffer, if it is a regular file of at most `max_bytes`.

    The mapping lives as long as anything refers to the buffer, beyond the block too.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise CardNotFoundError(f"{path} is not a regular file")
        size = found.st_size
        if size > max_bytes:
            raise CardTooLargeError(f"{path} has {size} bytes; at most {max_bytes} are believed")
        if size < 2 * len(MAGIC):
            raise CardCorruptError(f"{path} has only {size} bytes; a card is an Arrow IPC file")
        with pa.memory_map(str(path), "r") as source:
            buffer = source.read_buffer()
    except CardError:
        raise
    except FileNotFoundError as e:
        raise CardNotFoundError(f"there is no card file {path}") from e
    except OSError as e:
        raise CardCorruptError(f"{path} cannot be read: {e}") from e
    yield buffer


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, rename over it, flush the folder."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the platform can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def encode(
    words: Mapping[str, object], modules: Mapping[str, Adapter], prototypes: FloatArray | None
) -> bytes:
    """The bytes of a card's file from its metadata and matrices."""
    rows: list[_Row] = []
    for module, adapter in modules.items():
        for role, matrix in adapter.matrices.items():
            dtype = "float32" if role.endswith("_scale") else adapter.dtype
            rows.append((module, role, dtype, *matrix.shape[:2], adapter.alpha, matrix))
    if prototypes is not None:
        rows.append(("", "prototypes", "float32", *prototypes.shape, 0.0, prototypes))
    try:
        metadata = {key: str(words[key]).encode() for key in TEXTS}
        metadata |= {
            key: json.dumps(words[key], sort_keys=True, allow_nan=False).encode() for key in JSON
        }
    except (UnicodeEncodeError, ValueError) as e:
        raise CardInvalidError(f"a text of the card cannot be written as UTF-8 or JSON: {e}") from e
    metadata["format_version"] = format_of(adapter.dtype for adapter in modules.values()).encode()
    # Arrow aligns bodies to 8 bytes only. The start of the data does not depend on the matrices, so
    # a file with a token of data tells by how many characters the metadata has to grow.
    pad = -_data_offset(_file(rows, metadata, b"\x01" * ALIGNMENT)) % ALIGNMENT
    data = b"".join(_padded(matrix) for *_, matrix in rows)
    return _file(rows, {**metadata, "pad": b" " * pad}, data)


def format_of(dtypes: Iterable[str]) -> str:
    """The version of the format that a card of such matrices is written in."""
    return FORMATS["int8" in dtypes]


def _padded(matrix: npt.NDArray[Any]) -> bytes:
    little = matrix.astype(matrix.dtype.newbyteorder("<"), copy=False)
    raw = np.ascontiguousarray(little).tobytes()
    return raw + b"\x00" * (-len(raw) % ALIGNMENT)


def _file(rows: list[_Row], metadata: dict[str, bytes], data: bytes) -> bytes:
    ends = np.cumsum([0, *(m.nbytes + -m.nbytes % ALIGNMENT for *_, m in rows)], dtype=np.int64)
    offsets = np.minimum(ends, len(data))
    binary = pa.Array.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)]
    )
    columns: list[Any] = [
        pa.array([row[i] for row in rows], field.type) for i, field in enumerate(SCHEMA) if i < 6
    ]
    schema = SCHEMA.with_metadata({"pad": b"", **metadata})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(pa.record_batch([*columns, binary], schema=schema))
    return bytes(memoryview(sink.getvalue()))


def _data_offset(file: bytes) -> int:
    buffer = pa.py_buffer(file)
    batch = pa.ipc.open_file(buffer).get_batch(0)
    return int(batch.column(6).buffers()[2].address - buffer.address)
