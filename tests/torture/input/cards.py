"""The card reader, by a real mapping of a real file: mutated cards, lengths in order again.

Besides bytes turned over anywhere, a card is taken apart as Arrow sees it and written anew: the
texts of its metadata, the rows of its table, the matrices, the offsets between them, the columns
themselves. So it is a whole Arrow file again, and what is behind the first checks is reached.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from lora.adapter import Adapter
from lora.card import BaseModel, LoRACard, LoRAFormat
from lora.errors import CardError
from schemas import SkillCard
from schemas import encode as encode_event
from services.runtime.cards import boundary_of, describe, edition_of, prototypes_of
from tests.torture.input.target import Target, hold
from tests.torture.input.trees import Word, dented, mutated

__all__ = ["TARGET", "folder"]

MOST = 1 << 20
"""Bytes that the reader is told to believe at most."""

_folders: list[Path] = []


def folder() -> Path:
    """A folder of this process in memory, where there is such; it goes with the process."""
    if not _folders:
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 (made private)
        root = os.environ.get("TORTURE_FOLDER", shared)  # a fuzzer ends without a farewell
        _folders.append(Path(tempfile.mkdtemp(prefix="torture-", dir=root)))
        atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
    return _folders[0]


def _card(dtype: str = "float32", **fields: Any) -> LoRACard:
    rng = np.random.default_rng(1)

    def adapter(inputs: int, outputs: int, rank: int) -> Adapter:
        a = rng.normal(0, 0.1, (inputs, rank)).astype(np.float32)
        b = rng.normal(0, 0.1, (rank, outputs)).astype(np.float32)
        return Adapter(a, b, rank, 8.0).astype(dtype)

    modules = {"embedding": adapter(6, 6, 2), "layer.0.query": adapter(6, 4, 3)}
    about: dict[str, Any] = {
        "prototypes": np.eye(2, 6, dtype=np.float32),
        "threshold": 0.5,
        "metrics": {"before": 0.5, "after": 0.7, "groups": 12, "note": "ok", "flag": True},
        "extra": {"key": "value"},
        "description": "about banks",
        "parents": ("sha256:" + "a" * 64,),
        "data_digest": "sha256:" + "b" * 64,
        "trainer": "test 1",
        "author": "somebody",
    }
    return LoRACard(
        name="bank",
        base_model=BaseModel("test/base", "ab" * 32),
        dim=6,
        modules=modules,
        created="2026-01-02T03:04:05Z",
        **(about | fields),
    )


def _seeds() -> list[bytes]:
    bare = {"prototypes": None, "threshold": None, "metrics": {}, "extra": {}, "parents": ()}
    cards = [_card(), _card("float16"), _card("bfloat16"), _card("int8"), _card(**bare)]
    return [LoRAFormat.encode(card) for card in cards]


def check(data: bytes) -> bool:
    """Read the file; what is believed is what the format says, and is the same written again."""
    path = folder() / "card.lora.arrow"
    path.write_bytes(data)
    try:
        card = LoRAFormat.read(path, max_bytes=MOST)
    except CardError as error:
        hold(len(str(error)) <= 20_000, "the error repeats a long part of the card")
        return False
    hold(len(data) <= MOST, "a larger card than is believed")
    hold(card.digest == LoRAFormat.digest_of(path) and card.bytes == len(data), "another digest")
    hold(card.nbytes <= 16 * len(data), "it unpacks to far more than the file")
    for adapter in card.modules.values():
        for factor in adapter.factors:
            hold(bool(np.isfinite(factor).all()), "a value that is applied is not finite")
    again = LoRAFormat.encode(card)
    (folder() / "again.lora.arrow").write_bytes(again)
    second = LoRAFormat.read(folder() / "again.lora.arrow", max_bytes=2 * MOST)
    hold(LoRAFormat.encode(second) == again, "written again it is another card")
    described = describe(card)
    edition_of(described)
    prototypes_of(described, card.dim)
    boundary_of(described, card.dim)
    _told(described)
    return True


def _told(card: SkillCard) -> None:
    """What a card says of itself must be sayable: on the bus, to a peer."""
    from schemas import Event, SkillPublished
    from services.federation.protocol import card_from

    event = Event(data=SkillPublished(card=card, origin="test"), source="/factory/1")
    raw = encode_event(event)
    card_from(json.dumps(json.loads(raw)["data"]["card"]).encode())


# How cards are changed ------------------------------------------------------------------------


def _mutate(data: bytes, random: Random) -> bytes:
    if random.random() < 0.25:
        return dented(data, random)
    try:
        found = _taken_apart(data)
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError):
        return dented(data, random)
    metadata, columns, offsets, values = found
    for _ in range(random.choice([1, 1, 2, 3])):
        match random.randrange(10):
            case 0 | 1 | 2 | 3:
                _reword(metadata, random)
            case 4 | 5:
                _rerow(columns, random)
            case 6:
                at = random.randrange(len(offsets))
                offsets[at] = max(0, offsets[at] + random.choice([-64, -1, 1, 64, 2**40, -(2**40)]))
            case 7:
                values = dented(values, random)
            case 8:
                step = np.array(random.choice([np.inf, np.nan, 1e38, 0]), "<f4").tobytes()
                at = 4 * random.randrange(max(1, len(values) // 4))
                values = values[:at] + step + values[at + 4 :]
            case _:
                offsets = sorted(offsets)
    with contextlib.suppress(pa.ArrowException, OSError, ValueError, TypeError, OverflowError):
        return _put_together(metadata, columns, offsets, values, random)
    return dented(data, random)


_Parts = tuple[dict[bytes, bytes], dict[str, list[Any]], list[int], bytes]
_NAMES = ("module", "role", "dtype", "rows", "cols", "alpha")


def _taken_apart(data: bytes) -> _Parts:
    batch = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0)
    batch.validate(full=True)
    columns = {name: batch.column(name).to_pylist() for name in _NAMES}
    _, ends, values = batch.column("data").buffers()
    offsets = np.frombuffer(ends, np.int64, batch.num_rows + 1).tolist()
    return dict(batch.schema.metadata), columns, offsets, bytes(values)


def _reword(metadata: dict[bytes, bytes], random: Random) -> None:
    key = random.choice(sorted(metadata))
    match random.randrange(12):
        case 0:
            del metadata[key]
        case 1:
            metadata[random.choice([key + b"\n", b"x", b"extra", b"format_version"])] = metadata[
                key
            ]
        case 2:
            metadata[key] = random.choice(list(metadata.values()))
        case 3:
            metadata[b"format_version"] = random.choice([b"1", b"2", b"3", b"01", b""])
        case 4:
            values = [
                10**400,
                Word(b"9" * 5000),
                2**70,
                Word(b'"\\ud800"'),
                Word(b"1e999"),
                "\ud800",
            ]
            name = random.choice([b"metrics", b"extra"])
            metadata[name] = mutated(metadata.get(name, b"{}"), random, values)
        case _:
            metadata[key] = mutated(metadata[key], random)
    if random.random() < 0.9:
        metadata[b"pad"] = b" " * random.randrange(64)


def _rerow(columns: dict[str, list[Any]], random: Random) -> None:
    name = random.choice(_NAMES)
    values = columns[name]
    if not values:
        return
    at = random.randrange(len(values))
    numbers = [-(2**31), -1, 0, 1, 2, 6, 2**20, 2**20 + 1, 2**31 - 1]
    if name in ("rows", "cols"):
        values[at] = random.choice([*numbers, *values])
    elif name == "alpha":
        values[at] = random.choice([0.0, -1.0, float("nan"), float("inf"), 1e-320, 65537.0, 8.0])
    else:
        words = ["", "a", "b", "a_scale", "prototypes", "int8", "float64", "embedding", "x" * 300]
        values[at] = random.choice([*words, "layer.0.query\n", "é", *values])
    match random.randrange(6):
        case 0:
            for column in columns.values():
                column.append(column[at])
        case 1:
            for column in columns.values():
                del column[at]
        case _:
            pass


def _put_together(
    metadata: dict[bytes, bytes],
    columns: dict[str, list[Any]],
    offsets: list[int],
    values: bytes,
    random: Random,
) -> bytes:
    count = len(columns["module"])
    offsets = (offsets + [offsets[-1]] * count)[: count + 1]
    data = pa.Array.from_buffers(
        pa.large_binary(),
        count,
        [None, pa.py_buffer(np.array(offsets, np.int64).tobytes()), pa.py_buffer(values)],
    )
    kinds = [pa.string(), pa.string(), pa.string(), pa.int32(), pa.int32(), pa.float64()]
    arrays = [pa.array(columns[name], kind) for name, kind in zip(_NAMES, kinds, strict=True)]
    fields = [
        pa.field(name, kind, nullable=False) for name, kind in zip(_NAMES, kinds, strict=True)
    ]
    fields.append(pa.field("data", pa.large_binary(), nullable=False))
    arrays.append(data)
    if random.random() < 0.05:
        at = random.randrange(len(fields))
        del fields[at], arrays[at]
    schema = pa.schema(fields, metadata=metadata)
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    if random.random() < 0.05:
        batch = batch.slice(0, max(0, count - 1))
    compression = "lz4" if random.random() < 0.01 else None
    file = _written(schema, [batch] * (2 if random.random() < 0.03 else 1), compression)
    pads = range(64 if b"pad" in metadata and random.random() < 0.98 else 0)
    for pad in pads:  # the matrices begin on a boundary, as they do in a card
        if _aligned(file):
            break
        schema = pa.schema(fields, metadata={**metadata, b"pad": b" " * pad})
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        file = _written(schema, [batch])
    return file


def _written(
    schema: pa.Schema, batches: list[pa.RecordBatch], compression: str | None = None
) -> bytes:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(memoryview(sink.getvalue()))


def _aligned(file: bytes) -> bool:
    buffer = pa.py_buffer(file)
    batch = pa.ipc.open_file(buffer).get_batch(0)
    found = batch.column(batch.num_columns - 1).buffers()[-1]
    return found is None or (found.address - buffer.address) % 64 == 0


TARGET = Target(
    name="cards",
    about="the card reader",
    seeds=_seeds,
    mutate=_mutate,
    check=check,
    weight=2.0,
    longest=1 << 14,
)
