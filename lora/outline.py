"""What a card's file says, read with suspicion; and its matrices, found where it says they lie."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lora.adapter import DTYPES, Adapter, FloatArray
from lora.arrowfile import one_batch
from lora.errors import CardInvalidError, CardSchemaError
from lora.layout import ALIGNMENT, FORMATS, JSON, KEYS, PAIR, SCALES, SCHEMA, TEXTS, format_of

__all__ = ["Outline", "Place", "matrices", "outline"]

MAX_SIDE: Final = 2**20
ROW_LIMIT: Final = 4 * 4096 + 1


class Place(NamedTuple):
    """Where a matrix lies in its file, and which one it is."""

    module: str
    role: str
    dtype: str
    rows: int
    cols: int
    alpha: float
    start: int
    """Bytes from the file's beginning; a multiple of `ALIGNMENT`."""


class Outline(NamedTuple):
    """What a card's file says of itself, and where its matrices lie."""

    words: dict[str, Any]
    places: tuple[Place, ...]


def outline(buffer: pa.Buffer) -> Outline:
    """What a card's file says of itself, and where in it the matrices lie; all of it checked.

    Raises:
        CardCorruptError, CardSchemaError, CardInvalidError
    """
    batch = one_batch(buffer, SCHEMA, KEYS)
    words, version = _words(batch.schema.metadata)
    if not 0 < batch.num_rows <= ROW_LIMIT:
        raise CardSchemaError(f"a card holds 1 to {ROW_LIMIT} matrices, not {batch.num_rows}")
    table = batch.select(list(range(6))).to_pydict()
    _, ends, data = batch.column(6).buffers()
    bounds = np.frombuffer(ends, np.int64, batch.num_rows + 1).tolist()
    places = []
    for i, (module, role, dtype, rows, cols, alpha) in enumerate(zip(*table.values(), strict=True)):
        values = data.slice(bounds[i], bounds[i + 1] - bounds[i])
        start = _start(buffer, values, dtype, rows, cols)
        places.append(Place(module, role, dtype, rows, cols, alpha, start))
    _check_roles(places)
    if version != (stated := format_of(place.dtype for place in places)):
        raise CardSchemaError(
            f"the card states format {version!r}; what it holds is format {stated!r}"
        )
    return Outline(words, tuple(places))


def _check_roles(places: list[Place]) -> None:
    """Every module has its two matrices once, of one alpha, and there are prototypes but once."""
    roles: dict[str, set[str]] = {}
    alphas: dict[str, float] = {}
    prototypes = False
    for i, (module, role, dtype, _, _, alpha, _) in enumerate(places):
        if role == "prototypes" and module == "" and dtype == "float32" and not prototypes:
            prototypes = True
        elif role in PAIR and role not in roles.setdefault(module, set()):
            if role in SCALES and dtype != "float32":
                raise CardSchemaError(f"{role} of {module!r} is {dtype}, scales are float32")
            roles[module].add(role)
            if alphas.setdefault(module, alpha) != alpha:
                raise CardSchemaError(f"the matrices of {module!r} declare different alphas")
        else:
            raise CardSchemaError(f"matrix {i} of {module!r} is {role!r} twice, or no known role")
    for module, found in roles.items():
        if not {"a", "b"} <= found:
            raise CardSchemaError(f"{module!r} has only one of its two matrices")


def matrices(
    places: Iterable[Place], buffer: pa.Buffer
) -> tuple[dict[str, Adapter], FloatArray | None]:
    """The adapters and the prototypes of a file of this outline: views of `buffer`.

    Raises:
        CardInvalidError: the matrices of an adapter do not fit together.
    """
    prototypes: FloatArray | None = None
    pairs: dict[str, dict[str, npt.NDArray[Any]]] = {}
    alphas: dict[str, float] = {}
    for module, role, dtype, rows, cols, alpha, start in places:
        matrix = np.frombuffer(buffer, DTYPES[dtype], rows * cols, start).reshape(rows, cols)
        if role == "prototypes":
            prototypes = matrix
        else:
            pairs.setdefault(module, {})[role] = matrix
            alphas[module] = alpha
    modules = {
        module: Adapter(
            pair["a"],
            pair["b"],
            pair["a"].shape[1],
            alphas[module],
            pair.get("a_scale"),
            pair.get("b_scale"),
        )
        for module, pair in pairs.items()
    }
    return modules, prototypes


def _start(whole: pa.Buffer, data: pa.Buffer, dtype: str, rows: int, cols: int) -> int:
    """Where a matrix begins in its file."""
    if dtype not in DTYPES:
        raise CardSchemaError(f"a matrix has the dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if not (0 < rows <= MAX_SIDE and 0 < cols <= MAX_SIDE):
        raise CardInvalidError(f"a matrix declares {rows} by {cols} values")
    size = rows * cols * DTYPES[dtype].itemsize
    if data.size != size + -size % ALIGNMENT:
        raise CardInvalidError(
            f"a {dtype} matrix of {rows} by {cols} does not take {data.size} bytes"
        )
    start = int(data.address - whole.address)
    if start % ALIGNMENT or not 0 <= start <= whole.size - data.size:
        raise CardSchemaError(f"a matrix does not lie on a {ALIGNMENT}-byte boundary of the file")
    if any(memoryview(data)[size:]):
        raise CardInvalidError("a matrix is followed by something else than zeros")
    return start


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
        words: dict[str, Any] = {key: texts[key] for key in TEXTS}
        words |= {key: json.loads(texts[key], parse_constant=refuse) for key in JSON}
        return words, version
    except (ValueError, RecursionError) as e:
        raise CardSchemaError(f"the card's metadata is not UTF-8 and JSON: {e}") from e
