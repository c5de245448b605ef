"""Safetensors files as NumPy arrays, bfloat16 as its raw bits; torch-free."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors

from lora.adapter import DTYPES
from lora.errors import InteropError
from lora.layout import write_atomically

__all__ = ["read_tensors", "write_tensors"]

MAX_BYTES: Final = 1024 * 1024 * 1024

_NAMES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_CODES: Final = {code: DTYPES[name] for name, code in _NAMES.items()}

Array = npt.NDArray[Any]


def read_tensors(file: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata; bfloat16 as uint16.

    Raises:
        InteropError: there is no such file, or it is malformed, or a dtype is none of float32,
            float16 and bfloat16.
    """
    file = Path(file)
    parse: Any = safetensors.deserialize  # it carries no annotations
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InteropError(f"{file} has more than {MAX_BYTES} bytes")
        data = file.read_bytes()
        found = parse(data)
        (length,) = struct.unpack_from("<Q", data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (OSError, safetensors.SafetensorError, ValueError, RecursionError, struct.error) as e:
        raise InteropError(f"{file} is no readable safetensors file: {e}") from e
    tensors: dict[str, Array] = {}
    for name, spec in found:
        if spec["dtype"] not in _CODES:
            raise InteropError(f"tensor {name!r} has the dtype {spec['dtype']}, no float of a card")
        values = np.frombuffer(spec["data"], _CODES[spec["dtype"]])
        try:
            tensors[name] = values.reshape(spec["shape"])
        except (ValueError, OverflowError) as e:  # nothing by as much as one likes
            raise InteropError(f"tensor {name!r} has the shape {spec['shape']}") from e
    return tensors, metadata


def write_tensors(
    file: str | Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file beside and rename it; uint16 arrays are stored as bfloat16."""
    codes = {DTYPES[name]: code for name, code in _NAMES.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    parts: list[bytes] = []
    offset = 0
    for name, array in sorted(tensors.items()):
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(Path(file), struct.pack("<Q", len(text)) + text + b"".join(parts))
