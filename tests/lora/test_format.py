"""Cards as bytes: what is written comes back bit for bit, and what is not sound is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora import Adapter, LoRACard, LoRAFormat
from lora.adapter import DTYPES, from_bfloat16, to_bfloat16
from lora.errors import (
    CardDigestError,
    CardError,
    CardInvalidError,
    CardNotFiniteError,
    CardNotFoundError,
    CardSchemaError,
    CardTooLargeError,
)
from tests.lora.cards import adapter, card

NAMES = st.text(string.ascii_lowercase + string.digits + "._-", min_size=1, max_size=20).filter(
    lambda name: name[0] not in "._-"
)
WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def adapters(draw: st.DrawFn, inputs: int, outputs: int, dtype: str) -> Adapter:
    rank = draw(st.integers(1, 5))

    def matrix(rows: int, cols: int) -> np.ndarray:
        carrier = DTYPES[dtype]
        raw = draw(st.binary(min_size=rows * cols * carrier.itemsize, max_size=rows * cols * 4))
        values = np.frombuffer(raw[: rows * cols * carrier.itemsize], carrier).copy()
        if dtype == "bfloat16":
            values[(values & 0x7F80) == 0x7F80] = 0x8000
        elif dtype == "int8":
            values[values == -128] = 127
        else:
            values[~np.isfinite(values)] = -0.0
        return values.reshape(rows, cols)

    alpha = draw(st.floats(1e-3, 1e4))
    a, b = matrix(inputs, rank), matrix(rank, outputs)
    if dtype != "int8":
        return Adapter(a, b, rank, alpha)
    widths = st.floats(2.0**-149, 2.0**120, width=32)
    scales = np.array(draw(st.lists(widths, min_size=2 * rank, max_size=2 * rank)), np.float32)
    return Adapter(a, b, rank, alpha, scales[None, :rank], scales[rank:, None])


@st.composite
def cards(draw: st.DrawFn) -> LoRACard:
    dim = draw(st.integers(1, 6))
    dtype = st.sampled_from(list(DTYPES))
    modules = {
        f"encoder.layer.{i}.{draw(NAMES)}": draw(
            adapters(draw(st.integers(1, 7)), draw(st.integers(1, 7)), draw(dtype))
        )
        for i in range(draw(st.integers(0, 3)))
    }
    if not modules or draw(st.booleans()):
        modules["embedding"] = draw(adapters(dim, dim, draw(dtype)))
    number = st.floats(allow_nan=False, allow_infinity=False)
    return card(
        draw(NAMES),
        version=draw(st.integers(1, 2**31 - 1)),
        dim=dim,
        modules=modules,
        description=draw(TEXTS),
        author=draw(TEXTS),
        applies_to=draw(st.sampled_from([("query",), ("query", "document"), ("document",)])),
        prototypes=draw(st.none() | st.just(np.eye(dim, dtype=np.float32))),
        threshold=draw(st.none() | st.floats(-1, 1)),
        metrics=draw(st.dictionaries(TEXTS, number | WHOLE | st.none() | TEXTS)),
        extra=draw(st.dictionaries(TEXTS, TEXTS, max_size=4)),
        parents=("sha256:" + "0a" * 32,) * draw(st.integers(0, 2)),
    )


@given(cards())
def test_what_is_written_comes_back_bit_for_bit(tmp_path_factory, made: LoRACard) -> None:
    path = tmp_path_factory.mktemp("card") / "x.lora.arrow"
    written = LoRAFormat.write(made, path)
    found = LoRAFormat.read(path, digest=written.digest)
    assert found.digest == written.digest == LoRAFormat.digest_of(path) == made.key
    assert found.bytes == path.stat().st_size
    told = {field.name for field in dataclasses.fields(LoRACard)}
    for name in told - {"modules", "prototypes", "digest", "bytes"}:
        assert getattr(found, name) == getattr(made, name), name
    assert list(found.modules) == list(made.modules)
    for name, one in made.modules.items():
        two = found.modules[name]
        assert (one.rank, one.alpha, one.dtype) == (two.rank, two.alpha, two.dtype)
        assert list(one.matrices) == list(two.matrices)
        for x, y in zip(one.matrices.values(), two.matrices.values(), strict=True):
            assert x.tobytes() == y.tobytes()
            assert y.ctypes.data % 64 == 0
            assert not y.flags.writeable
    assert (found.prototypes is None) == (made.prototypes is None)
    assert LoRAFormat.encode(found) == LoRAFormat.encode(made) == path.read_bytes()


def test_matrices_are_views_of_one_mapping_that_outlives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.lora.arrow"
    modules = {f"m{i}": adapter(64, 64, rank=16, seed=i) for i in range(4)}
    LoRAFormat.write(card(modules=modules), path)
    found = LoRAFormat.read(path)
    starts = [m.ctypes.data for one in found.modules.values() for m in (one.a, one.b)]
    assert max(starts) - min(starts) < path.stat().st_size
    maps = Path("/proc/self/maps")
    if maps.exists():
        ranges = [
            [int(x, 16) for x in line.split()[0].split("-")]
            for line in maps.read_text().splitlines()
            if str(path) in line
        ]
        assert all(any(low <= start < high for low, high in ranges) for start in starts)
    path.unlink()
    assert all(found.modules[name].a.tobytes() == modules[name].a.tobytes() for name in modules)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bfloat16_rounds_to_the_nearest(value: float) -> None:
    (found,) = from_bfloat16(to_bfloat16([value])).tolist()
    if not math.isinf(found):
        assert abs(found - value) <= max(abs(value) * 2**-8, 2.0**-133)
    assert to_bfloat16([found]).tolist() == to_bfloat16([value]).tolist()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "x.lora.arrow"
    modules = {"embedding": adapter(6, 6), "layer.0.query": adapter(5, 3, seed=1)}
    LoRAFormat.write(card(modules=modules, prototypes=np.eye(6, dtype=np.float32)), file)
    return file


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CardNotFoundError, match="no card file"):
        LoRAFormat.read(tmp_path / "none.lora.arrow")
    with pytest.raises(CardNotFoundError, match="not a regular file"):
        LoRAFormat.read(tmp_path)


def test_a_file_above_the_cap_is_refused_unread(path: Path) -> None:
    with pytest.raises(CardTooLargeError, match="at most 100"):
        LoRAFormat.read(path, max_bytes=100)


def test_the_digest_is_checked_before_anything_is_parsed(path: Path) -> None:
    path.write_bytes(b"this is no Arrow file at all")
    with pytest.raises(CardDigestError, match="has the digest sha256:"):
        LoRAFormat.read(path, digest="sha256:" + "0" * 64)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for size in (*range(0, len(data), 97), len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CardError):
            LoRAFormat.read(path)


def test_who_has_hashed_the_bytes_is_spared_that_and_nothing_else(path: Path) -> None:
    first = LoRAFormat.read(path)

    again = LoRAFormat.read(path, digest=first.digest, hashed=True)
    alone = LoRAFormat.read(path, hashed=True)

    assert again.digest == alone.digest == first.digest
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CardError):
        LoRAFormat.read(path, digest=first.digest, hashed=True)


def test_a_flipped_byte_gives_an_error_of_ours_or_another_digest(path: Path) -> None:
    data, digest = path.read_bytes(), LoRAFormat.digest_of(path)
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        with pytest.raises(CardDigestError):
            LoRAFormat.read(path, digest=digest)
        try:
            assert LoRAFormat.read(path).digest != digest
        except CardError:
            continue


@given(st.data())
def test_no_spoilt_file_does_worse_than_an_error_of_ours(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("spoilt") / "x.lora.arrow"
    LoRAFormat.write(card(modules={"embedding": adapter(6, 6)}), path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(CardError):
        LoRAFormat.read(path)


def rewrite(path: Path, *, metadata=None, schema=None, columns=None, batches=1, **options) -> None:
    """The card's file again, with something else in it."""
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    words = {**batch.schema.metadata, **(metadata or {})}
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True)) | (columns or {})
    fields = schema or batch.schema.remove_metadata()
    batch = pa.record_batch(list(arrays.values()), schema=fields.with_metadata(words))
    for pad in range(0, 64, 8):  # until the data lies on a boundary again
        schema = batch.schema.with_metadata({**words, b"pad": b" " * pad})
        writing = pa.ipc.IpcWriteOptions(**options)
        with pa.ipc.new_file(str(path), schema, options=writing) as writer:
            for _ in range(batches):
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        file = pa.py_buffer(path.read_bytes())
        data = pa.ipc.open_file(file).get_batch(0).column(6).buffers()[2]
        if (data.address - file.address) % 64 == 0:
            return


def test_a_compressed_file_is_refused_before_it_is_unpacked(path: Path) -> None:
    rewrite(path, compression="zstd")
    with pytest.raises(CardSchemaError, match="compressed"):
        LoRAFormat.read(path)


def test_other_columns_and_other_keys_are_refused(path: Path) -> None:
    original = path.read_bytes()
    rewrite(path, metadata={b"surprise": b"1"})
    with pytest.raises(CardSchemaError, match="metadata keys"):
        LoRAFormat.read(path)
    path.write_bytes(original)
    rewrite(path, batches=2)
    with pytest.raises(CardSchemaError, match="one record batch"):
        LoRAFormat.read(path)
    with pa.ipc.new_file(str(path), pa.schema([("x", pa.int8())])) as writer:
        writer.write_batch(pa.record_batch([pa.array([1], pa.int8())], names=["x"]))
    with pytest.raises(CardSchemaError):
        LoRAFormat.read(path)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("format_version", "2", CardSchemaError),
        ("format_version", "3", CardSchemaError),
        ("name", "../../etc", CardInvalidError),
        ("name", "Upper", CardInvalidError),
        ("version", "0", CardInvalidError),
        ("version", "1.5", CardInvalidError),
        ("version", "true", CardInvalidError),
        ("rank", "-3", CardInvalidError),
        ("rank", "1000000", CardInvalidError),
        ("alpha", "0.0", CardInvalidError),
        ("alpha", "NaN", CardSchemaError),
        ("alpha", '"much"', CardSchemaError),
        ("dim", "7", CardInvalidError),
        ("threshold", "1.5", CardInvalidError),
        ("threshold", "[0.5]", CardSchemaError),
        ("metrics", '{"x": [1]}', CardInvalidError),
        ("metrics", "[]", CardSchemaError),
        ("parents", '["sha256:12"]', CardInvalidError),
        ("base_model", '{"id": "x", "sha256": "12"}', CardInvalidError),
        ("base_model", '{"id": "x"}', CardSchemaError),
        ("applies_to", '["everything"]', CardInvalidError),
        ("target_modules", '["a b"]', CardInvalidError),
        ("created", "yesterday", CardInvalidError),
        ("extra", '{"x": 1}', CardSchemaError),
        ("extra", "[" * 100_000, CardSchemaError),
        ("description", b"\xff\xfe", CardSchemaError),
    ],
)
def test_a_bad_field_is_refused(path: Path, key: str, value, error: type[CardError]) -> None:
    raw = value if isinstance(value, bytes) else value.encode()
    rewrite(path, metadata={key.encode(): raw})
    with pytest.raises(error):
        LoRAFormat.read(path)


@pytest.mark.parametrize(
    ("column", "values", "error"),
    [
        ("rows", [6, 4, 5, 4, 5], CardInvalidError),
        ("rows", [2**30, 4, 5, 4, 6], CardInvalidError),
        ("cols", [4, 6, 4, 0, 6], CardInvalidError),
        ("cols", [4, 6, 4, 2, 6], CardInvalidError),
        ("dtype", ["float32", "float32", "float64", "float32", "float32"], CardSchemaError),
        ("role", ["a", "a", "a", "b", "prototypes"], CardSchemaError),
        ("role", ["a", "b", "a", "b", "c"], CardSchemaError),
        ("module", ["embedding", "x", "y", "y", ""], CardSchemaError),
        ("alpha", [8.0, 9.0, 8.0, 8.0, 0.0], CardSchemaError),
        ("alpha", [-8.0, -8.0, 8.0, 8.0, 0.0], CardInvalidError),
    ],
)
def test_bad_shapes_ranks_and_roles_are_refused(path: Path, column, values, error) -> None:
    schema = pa.ipc.open_file(path.read_bytes()).schema
    rewrite(path, columns={column: pa.array(values, schema.field(column).type)})
    with pytest.raises(error):
        LoRAFormat.read(path)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "int8"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_neither_written_nor_read(
    tmp_path: Path, dtype: str, value: float
) -> None:
    sound = adapter(6, 6).astype(dtype)
    path = tmp_path / "x.lora.arrow"
    LoRAFormat.write(card(modules={"embedding": sound}), path)
    poisoned = np.full((6, 4), value, np.float32)
    bits = to_bfloat16(poisoned) if dtype == "bfloat16" else poisoned.astype(DTYPES[dtype])
    if dtype == "bfloat16":
        bits = np.full((6, 4), 0x7FC0 if math.isnan(value) else 0x7F80, np.uint16)
    with pytest.raises(CardNotFiniteError, match="matrix A of 'embedding'"):
        LoRAFormat.encode(card(modules={"embedding": Adapter(bits, sound.b, 4, 8.0)}))
    data = path.read_bytes()
    place = data.index(sound.a.tobytes())
    path.write_bytes(data[:place] + bits.tobytes() + data[place + bits.nbytes :])
    with pytest.raises(CardNotFiniteError, match="matrix A of 'embedding'"):
        LoRAFormat.read(path)


def test_any_arrow_tool_reads_the_metadata(path: Path) -> None:
    metadata = pa.ipc.open_file(str(path)).schema.metadata
    assert metadata[b"name"] == b"bank"
    assert json.loads(metadata[b"base_model"])["id"] == "test/base"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CardInvalidError, match="UTF-8"):
        LoRAFormat.write(card(description="\ud800"), tmp_path / "x.lora.arrow")
    assert list(tmp_path.iterdir()) == []
