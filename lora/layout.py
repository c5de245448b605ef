"""How a card lies in its Arrow IPC file: one row a matrix, every matrix on a 64-byte boundary."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lora.adapter import DTYPES, Adapter, FloatArray
from lora.errors import (
    CardCorruptError,
    CardDigestError,
    CardInvalidError,
    CardNotFoundError,
    CardSchemaError,
    CardTooLargeError,
)

__all__ = [
    "ALIGNMENT",
    "FORMAT_VERSION",
    "check_digest",
    "decode",
    "digest_of_bytes",
    "encode",
    "mapped",
    "sync_folder",
    "write_atomically",
]

ALIGNMENT: Final = 64
FORMAT_VERSION: Final = "1"
MAX_SIDE: Final = 2**20
_MAGIC: Final = b"ARROW1\x00\x00"
_ROW_LIMIT: Final = 2 * 4096 + 1

_SCHEMA: Final = pa.schema(
    [
        pa.field("module", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),  # a, b or prototypes
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("cols", pa.int32(), nullable=False),
        pa.field("alpha", pa.float64(), nullable=False),  # 0 for prototypes
        # Row-major little-endian values, zeros after them up to a multiple of 64 bytes.
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)

_TEXTS: Final = ("name", "description", "created", "author", "data_digest", "trainer")
_JSON: Final = (
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
_KEYS: Final = frozenset({"format_version", "pad", *_TEXTS, *_JSON})

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
    if path.exists() and not path.is_file():
        raise CardNotFoundError(f"{path} is not a regular file")
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise CardTooLargeError(f"{path} has {size} bytes; at most {max_bytes} are believed")
        if size < 2 * len(_MAGIC):
            raise CardCorruptError(f"{path} has only {size} bytes; a card is an Arrow IPC file")
        with pa.memory_map(str(path), "r") as source:
            buffer = source.read_buffer()
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
        for role, matrix in (("a", adapter.a), ("b", adapter.b)):
            shape = matrix.shape
            rows.append((module, role, adapter.dtype, shape[0], shape[1], adapter.alpha, matrix))
    if prototypes is not None:
        rows.append(("", "prototypes", "float32", *prototypes.shape, 0.0, prototypes))
    try:
        metadata = {key: str(words[key]).encode() for key in _TEXTS}
        metadata |= {
            key: json.dumps(words[key], sort_keys=True, allow_nan=False).encode() for key in _JSON
        }
    except (UnicodeEncodeError, ValueError) as e:
        raise CardInvalidError(f"a text of the card cannot be written as UTF-8 or JSON: {e}") from e
    metadata["format_version"] = FORMAT_VERSION.encode()
    # Arrow aligns bodies to 8 bytes only. The start of the data does not depend on the matrices, so
    # a file with a token of data tells by how many characters the metadata has to grow.
    pad = -_data_offset(_file(rows, metadata, b"\x01" * ALIGNMENT)) % ALIGNMENT
    data = b"".join(_padded(matrix) for *_, matrix in rows)
    return _file(rows, {**metadata, "pad": b" " * pad}, data)


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
        pa.array([row[i] for row in rows], field.type) for i, field in enumerate(_SCHEMA) if i < 6
    ]
    schema = _SCHEMA.with_metadata({"pad": b"", **metadata})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(pa.record_batch([*columns, binary], schema=schema))
    return bytes(memoryview(sink.getvalue()))


def _data_offset(file: bytes) -> int:
    buffer = pa.py_buffer(file)
    batch = pa.ipc.open_file(buffer).get_batch(0)
    return int(batch.column(6).buffers()[2].address - buffer.address)


def decode(
    buffer: pa.Buffer,
) -> tuple[dict[str, Any], dict[str, Adapter], FloatArray | None]:
    """Metadata, adapters and prototypes of a card's file; the matrices are views of `buffer`.

    Raises:
        CardCorruptError, CardSchemaError, CardInvalidError
    """
    batch = _batch(buffer)
    if not 0 < batch.num_rows <= _ROW_LIMIT:
        raise CardSchemaError(f"a card holds 1 to {_ROW_LIMIT} matrices, not {batch.num_rows}")
    pairs: dict[str, dict[str, npt.NDArray[Any]]] = {}
    alphas: dict[str, float] = {}
    prototypes: FloatArray | None = None
    table = batch.select(list(range(6))).to_pydict()
    _, ends, data = batch.column(6).buffers()
    bounds = np.frombuffer(ends, np.int64, batch.num_rows + 1).tolist()
    for i, (module, role, dtype, rows, cols, alpha) in enumerate(zip(*table.values(), strict=True)):
        matrix = _view(buffer, data.slice(bounds[i], bounds[i + 1] - bounds[i]), dtype, rows, cols)
        if role == "prototypes" and module == "" and dtype == "float32" and prototypes is None:
            prototypes = matrix
        elif role in ("a", "b") and role not in pairs.setdefault(module, {}):
            pairs[module][role] = matrix
            if alphas.setdefault(module, alpha) != alpha:
                raise CardSchemaError(f"the two matrices of {module!r} declare different alphas")
        else:
            raise CardSchemaError(f"matrix {i} of {module!r} is {role!r} twice, or no known role")
    modules: dict[str, Adapter] = {}
    for module, pair in pairs.items():
        if len(pair) != 2:
            raise CardSchemaError(f"{module!r} has only one of its two matrices")
        modules[module] = Adapter(pair["a"], pair["b"], pair["a"].shape[1], alphas[module])
    return _words(batch.schema.metadata), modules, prototypes


def _batch(buffer: pa.Buffer) -> pa.RecordBatch:
    if bytes(memoryview(buffer)[: len(_MAGIC)]) != _MAGIC:
        raise CardCorruptError("the file does not begin as an Arrow IPC file")
    try:
        reader = pa.ipc.open_file(buffer)
        batches = reader.num_record_batches
        found = reader.schema
        # Read as the stream that the file contains, so that the message whose metadata is looked
        # at is the message that is decoded.
        messages = pa.ipc.MessageReader.open_stream(buffer.slice(len(_MAGIC)))
        stated, message = messages.read_next_message(), messages.read_next_message()
        # Arrow takes the kind of a message on trust and reads one as the other.
        if (stated.type, message.type) != ("schema", "record batch"):
            raise CardCorruptError(f"expected a schema and a batch, not {stated.type}")
        schema = pa.ipc.read_schema(stated)
        if batches != 1 or not schema.equals(found, check_metadata=True):
            raise CardSchemaError("a card is one record batch whose schema is stated once")
        if not schema.remove_metadata().equals(_SCHEMA) or set(schema.metadata or {}) != {
            key.encode() for key in _KEYS
        }:
            raise CardSchemaError("the columns or the metadata keys are not those of a card")
        if _is_compressed(memoryview(message.metadata)):
            raise CardSchemaError("the file is compressed; a card is mapped as it lies")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error, StopIteration, EOFError) as e:
        raise CardCorruptError(f"not a whole Arrow IPC file: {e}") from e
    if any(column.null_count for column in batch.columns):
        raise CardSchemaError("a card holds no nulls")
    return batch


def _is_compressed(message: memoryview) -> bool:
    """Whether a record batch's flatbuffer states a compression (Message.header.compression)."""

    def entry(table: int, field: int) -> int:
        vtable = table - struct.unpack_from("<i", message, table)[0]
        size = struct.unpack_from("<H", message, vtable)[0]
        slot = 4 + 2 * field
        offset = struct.unpack_from("<H", message, vtable + slot)[0] if slot < size else 0
        return table + offset if offset else 0

    root = struct.unpack_from("<I", message, 0)[0]
    header = entry(root, 2)
    return entry(header + struct.unpack_from("<I", message, header)[0], 3) != 0


def _view(whole: pa.Buffer, data: pa.Buffer, dtype: str, rows: int, cols: int) -> Any:
    if dtype not in DTYPES:
        raise CardSchemaError(f"a matrix has the dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if not (0 < rows <= MAX_SIDE and 0 < cols <= MAX_SIDE):
        raise CardInvalidError(f"a matrix declares {rows} by {cols} values")
    size = rows * cols * DTYPES[dtype].itemsize
    if data.size != size + -size % ALIGNMENT:
        raise CardInvalidError(
            f"a {dtype} matrix of {rows} by {cols} does not take {data.size} bytes"
        )
    start = data.address - whole.address
    if start % ALIGNMENT or not 0 <= start <= whole.size - data.size:
        raise CardSchemaError(f"a matrix does not lie on a {ALIGNMENT}-byte boundary of the file")
    if any(memoryview(data)[size:]):
        raise CardInvalidError("a matrix is followed by something else than zeros")
    return np.frombuffer(data, DTYPES[dtype], rows * cols).reshape(rows, cols)


def _words(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not finite")

    try:
        texts = {key.decode(): value.decode() for key, value in metadata.items()}
        if texts["format_version"] != FORMAT_VERSION:
            raise CardSchemaError(
                f"the card has format {texts['format_version']!r}; this reads {FORMAT_VERSION!r}"
            )
        words: dict[str, Any] = {key: texts[key] for key in _TEXTS}
        return words | {key: json.loads(texts[key], parse_constant=refuse) for key in _JSON}
    except (ValueError, RecursionError) as e:
        raise CardSchemaError(f"the card's metadata is not UTF-8 and JSON: {e}") from e
