"""The importers: PEFT folders and plain safetensors, their JSON and their headers mutated.

An input is up to three files: `adapter_config.json`, `adapter_model.safetensors` and
`head.safetensors`, told apart by `FILE`. A header's length is put in order after it was changed.
"""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

import numpy as np

from lora.card import BaseModel, LoRACard, LoRAFormat
from lora.errors import CardInvalidError, CardNotFiniteError, InteropError
from lora.interop import import_peft, import_safetensors
from tests.torture.input.cards import folder
from tests.torture.input.target import Target, hold
from tests.torture.input.trees import Word, dented, mutated

__all__ = ["TARGET"]

FILE = b"\x1d--file--\x1d"
NAMES = ("adapter_config.json", "adapter_model.safetensors", "head.safetensors")
BASE = BaseModel("test/base", "ab" * 32)
MODEL = "base_model.model."


def _tensors(metadata: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, shape in shapes.items():
        raw = np.full(shape, 0.25, np.float32).tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name.replace("__", ".")] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        body += raw
    return _joined(json.dumps(header).encode(), body)


def _joined(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def _config(**more: Any) -> bytes:
    found = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_rslora": False}
    return json.dumps({**found, "target_modules": ["query"], **more}).encode()


def _seeds() -> list[bytes]:
    pair = {f"{MODEL}layer__0__query__lora_A__weight": (2, 6)}
    pair[f"{MODEL}layer__0__query__lora_B__weight"] = (4, 2)
    body = _tensors({"format": "pt"}, **{k.replace(".", "__"): v for k, v in pair.items()})
    head = _tensors({"alphas": '{"embedding": 8.0}'}, lora_a=(6, 2), lora_b=(2, 6))
    named = _tensors({"alpha": "8"}, layer__0__query__lora_a=(6, 2), layer__0__query__lora_b=(2, 6))
    patterns = {"alpha_pattern": {r"layer\.\d+\.query": 2.0}, "rank_pattern": {"query": 2}}
    return [
        FILE.join([_config(), body]),
        FILE.join([_config(**patterns), body, head]),
        FILE.join([_config(use_rslora=True, lora_alpha=None), body, head]),
        FILE.join([b"", b"", head]),
        FILE.join([b"", b"", named]),
    ]


def check(data: bytes) -> bool:
    """Import what is there; what becomes a card is one that can be written."""
    files = [*data.split(FILE), b"", b"", b""][:3]
    for name, raw in zip(NAMES, files, strict=True):
        path = folder() / name
        path.unlink(missing_ok=True)
        if raw:
            path.write_bytes(raw)
    taken = False
    for made in (
        lambda: import_peft(folder(), name="bank", base_model=BASE, dim=6),
        lambda: import_safetensors(folder() / NAMES[2], name="bank", base_model=BASE, dim=6),
    ):
        try:
            card: LoRACard = made()
        except (InteropError, CardInvalidError) as error:
            hold(len(str(error)) <= 20_000, "the error repeats a long part of the input")
            continue
        try:
            written = LoRAFormat.encode(card)
        except CardNotFiniteError:
            continue
        (folder() / "made.lora.arrow").write_bytes(written)
        LoRAFormat.read(folder() / "made.lora.arrow")
        taken = True
    return taken


VALUES: list[Any] = [
    *("query", "(a+)+b", "(.*a){20}", "((a*)*)*x", "(", "[", r"\1", "(?P<x>", "layer.0.query"),
    *("F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", f"{MODEL}x.lora_A.weight"),
    *([1, 2], [0, 2**62], [0, 0], [2**63], {}, {"query": 3}, {"embedding": [1]}, {"a": "b"}),
    *('{"embedding": 1e999}', '{"embedding": [1]}', "[" * 5000, "NaN", "-1", "8", Word(b"9" * 400)),
    {"(x+x+)+y" * 3: 1},
]


def _mutate(data: bytes, random: Random) -> bytes:
    files = data.split(FILE)
    at = random.randrange(len(files))
    raw = files[at]
    if at == 0 and random.random() < 0.95:
        raw = mutated(raw, random, VALUES)
    elif len(raw) > 8 and random.random() < 0.85:
        (length,) = struct.unpack_from("<Q", raw)
        length = min(length, len(raw) - 8)
        header, body = mutated(raw[8 : 8 + length], random, VALUES), raw[8 + length :]
        raw = _joined(header, body)
    else:
        raw = dented(raw, random)
    files[at] = raw
    if random.random() < 0.05:
        files[at] = b""
    return FILE.join(files)


TARGET = Target(
    name="importers",
    about="the importers of PEFT folders and safetensors",
    seeds=_seeds,
    mutate=_mutate,
    check=check,
    weight=1.5,
    longest=1 << 14,
)
