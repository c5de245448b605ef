"""How a card lies in its Arrow IPC file: one row a matrix, every matrix on a 64-byte boundary."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lora.adapter import DTYPES, Adapter, FloatArray
from lora.arrowfile import MAGIC, one_batch
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
    "FORMATS",
    "check_digest",
    "decode",
    "digest_of_bytes",
    "encode",
    "mapped",
    "sync_folder",
    "write_atomically",
]

ALIGNMENT: Final = 64
FORMATS: Final = ("1", "2")
"""The versions of the format. A card is written in the first unless a matrix is int8: who reads
that one alone reads what it knows, and refuses the rest."""

MAX_SIDE: Final = 2**20
_ROW_LIMIT: Final = 4 * 4096 + 1

_SCHEMA: Final = pa.schema(
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

_SCALES: Final = ("a_scale", "b_scale")
_PAIR: Final = ("a", "b", *_SCALES)

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
        if size < 2 * len(MAGIC):
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
        for role, matrix in adapter.matrices.items():
            dtype = "float32" if role.endswith("_scale") else adapter.dtype
            rows.append((module, role, dtype, *matrix.shape[:2], adapter.alpha, matrix))
    if prototypes is not None:
        rows.append(("", "prototypes", "float32", *prototypes.shape, 0.0, prototypes))
    try:
        metadata = {key: str(words[key]).encode() for key in _TEXTS}
        metadata |= {
            key: json.dumps(words[key], sort_keys=True, allow_nan=False).encode() for key in _JSON
        }
    except (UnicodeEncodeError, ValueError) as e:
        raise CardInvalidError(f"a text of the card cannot be written as UTF-8 or JSON: {e}") from e
    metadata["format_version"] = _format(modules).encode()
    # Arrow aligns bodies to 8 bytes only. The start of the data does not depend on the matrices, so
    # a file with a token of data tells by how many characters the metadata has to grow.
    pad = -_data_offset(_file(rows, metadata, b"\x01" * ALIGNMENT)) % ALIGNMENT
    data = b"".join(_padded(matrix) for *_, matrix in rows)
    return _file(rows, {**metadata, "pad": b" " * pad}, data)


def _format(modules: Mapping[str, Adapter]) -> str:
    """The version that such a card is written in."""
    return FORMATS[any(adapter.dtype == "int8" for adapter in modules.values())]


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
    batch = one_batch(buffer, _SCHEMA, _KEYS)
    words, version = _words(batch.schema.metadata)
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
        elif role in _PAIR and role not in pairs.setdefault(module, {}):
            if role in _SCALES and dtype != "float32":
                raise CardSchemaError(f"{role} of {module!r} is {dtype}, scales are float32")
            pairs[module][role] = matrix
            if alphas.setdefault(module, alpha) != alpha:
                raise CardSchemaError(f"the matrices of {module!r} declare different alphas")
        else:
            raise CardSchemaError(f"matrix {i} of {module!r} is {role!r} twice, or no known role")
    modules: dict[str, Adapter] = {}
    for module, pair in pairs.items():
        if "a" not in pair or "b" not in pair:
            raise CardSchemaError(f"{module!r} has only one of its two matrices")
        modules[module] = Adapter(
            pair["a"],
            pair["b"],
            pair["a"].shape[1],
            alphas[module],
            pair.get("a_scale"),
            pair.get("b_scale"),
        )
    if version != _format(modules):
        raise CardSchemaError(
            f"the card states format {version!r}; what it holds is format {_format(modules)!r}"
        )
    return words, modules, prototypes


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


def _words(metadata: Mapping[bytes, bytes]) -> tuple[dict[str, Any], str]:
    """What the card says of itself, and the version of the format that it states."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not finite")

    try:
        texts = {key.decode(): value.decode() for key, value in metadata.items()}
        version = texts["format_version"]
        if version not in FORMATS:
            raise CardSchemaError(
                f"the card has format {version!r}; this reads {' and '.join(FORMATS)}"
            )
        words: dict[str, Any] = {key: texts[key] for key in _TEXTS}
        words |= {key: json.loads(texts[key], parse_constant=refuse) for key in _JSON}
        return words, version
    except (ValueError, RecursionError) as e:
        raise CardSchemaError(f"the card's metadata is not UTF-8 and JSON: {e}") from e
