"""Reads a skill card by its specification alone, and turns a vector by its head.

    python docs/examples/read_card.py FILE [sha256:…]

Needs pyarrow and NumPy, and nothing of this project. What is refused raises ValueError.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

LIMIT = 256 << 20
TEXTS = {"format_version", "pad", "name", "description", "created"}
TEXTS |= {"author", "data_digest", "trainer"}
VALUES = {"version", "rank", "alpha", "target_modules", "base_model", "dim"}
VALUES |= {"applies_to", "threshold", "metrics", "parents", "extra"}
COLUMNS = [
    ("module", pa.string()),
    ("role", pa.string()),
    ("dtype", pa.string()),
    ("rows", pa.int32()),
    ("cols", pa.int32()),
    ("alpha", pa.float64()),
    ("data", pa.large_binary()),
]
SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in COLUMNS])
STORED = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "i1"}
ROLES = ("a", "b", "a_scale", "b_scale")


def need(holds, message):
    if not holds:
        raise ValueError(message)


def read_card(path, digest=None):
    """(what the card says, {module: (A, B, alpha)}, prototypes or None); matrices in float32."""
    need(Path(path).stat().st_size <= LIMIT, "too large")
    raw = pa.memory_map(str(path)).read_buffer()
    found = "sha256:" + hashlib.sha256(raw).hexdigest()
    need(digest in (None, found), f"the file has the digest {found}")

    reader = pa.ipc.open_file(raw)
    need(reader.num_record_batches == 1, "a card is one record batch")
    need(reader.schema.remove_metadata().equals(SCHEMA), "these are not the columns of a card")
    batch = reader.get_batch(0)
    batch.validate(full=True)
    said = {key.decode(): value.decode() for key, value in reader.schema.metadata.items()}
    need(set(said) == TEXTS | VALUES, "these are not the metadata of a card")
    need(said["format_version"] in ("1", "2"), "another version of the format")
    said |= {key: json.loads(said[key]) for key in VALUES}
    need(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", said["name"]), "the name is none")

    _, ends, data = batch.column("data").buffers()
    begin = data.address - raw.address  # of a compressed file the data would lie elsewhere
    need(0 <= begin <= raw.size - data.size, "the file is compressed")
    modules, prototypes, narrow = {}, None, False
    for offset, row in zip(np.frombuffer(ends, "<i8"), batch.to_pylist(), strict=False):
        need((begin + offset) % 64 == 0, "a matrix does not lie on a 64-byte boundary")
        matrix = values(row)
        if row["role"] == "prototypes":
            need(prototypes is None and row["module"] == "", "prototypes twice")
            prototypes = matrix
        else:
            need(row["role"] in ROLES, "an unknown role")
            pair = modules.setdefault(row["module"], {"alpha": row["alpha"], "int8": set()})
            need(row["role"] not in pair and pair["alpha"] == row["alpha"], "no pair of matrices")
            pair[row["role"]] = matrix
            if row["role"] in ("a", "b"):
                pair["int8"].add(row["dtype"] == "int8")
            else:
                need(row["dtype"] == "float32", "scales are float32")
    for pair in modules.values():
        need({"a", "b"} <= set(pair), "one matrix without the other")
        need(pair["a"].shape[1] == pair["b"].shape[0], "the ranks differ")
        if pair["int8"] == {True}:
            spread(pair)
            narrow = True
        else:
            need(pair["int8"] == {False} and len(pair) == 4, "scales, and nothing to scale")
    need(said["format_version"] == ("2" if narrow else "1"), "another version than it states")
    need(modules, "there is nothing in it")
    return (
        {**said, "digest": found},
        {name: (pair["a"], pair["b"], pair["alpha"]) for name, pair in modules.items()},
        prototypes,
    )


def spread(pair):
    """Multiply the steps of a module's int8 matrices by the widths of the steps."""
    rank = pair["a"].shape[1]
    for role, shape in (("a", (1, rank)), ("b", (rank, 1))):
        scale = pair.get(role + "_scale")
        need(scale is not None and scale.shape == shape, "int8 without its scales")
        need(((scale > 0) & (scale <= 2.6793884e36)).all(), "a scale is none")
        need((pair[role] >= -127).all(), "a step is none")
        pair[role] = pair[role] * scale


def values(row):
    """A row's matrix in float32."""
    need(row["dtype"] in STORED, "an unknown dtype")
    stored = np.dtype(STORED[row["dtype"]])
    size = row["rows"] * row["cols"] * stored.itemsize
    need(len(row["data"]) == size + -size % 64, "the data has another length")
    need(not any(row["data"][size:]), "the data is not followed by zeros")
    matrix = np.frombuffer(row["data"], stored, row["rows"] * row["cols"])
    if row["dtype"] == "bfloat16":
        matrix = (matrix.astype(np.uint32) << 16).view(np.float32)
    matrix = matrix.astype(np.float32).reshape(row["rows"], row["cols"])
    need(np.isfinite(matrix).all(), "a value is not finite")
    return matrix


def bend(vector, head):
    """A base vector as the head (A, B, alpha) turns it; it keeps its length."""
    a, b, alpha = head
    length = np.linalg.norm(vector)
    if length == 0:
        return vector
    unit = vector / length
    turned = unit + alpha / a.shape[1] * (unit @ a @ b)
    return length * turned / np.linalg.norm(turned)


if __name__ == "__main__":
    card, modules, prototypes = read_card(*sys.argv[1:3])
    print(f"{card['name']}@{card['version']} for {card['base_model']['id']}: {card['digest']}")
    for name, (a, b, alpha) in modules.items():
        print(f"{name}: {a.shape[0]} -> {b.shape[1]}, rank {a.shape[1]}, alpha {alpha:g}")
    if prototypes is not None:
        print(f"{len(prototypes)} prototypes, routed to from a cosine of {card['threshold']}")
