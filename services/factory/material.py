"""What a training needs besides its dataset: background, negatives and anchors, as files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bus import BusError
from lora.training.background import background_digest, background_questions
from lora.training.dataset import FEEDBACK, Label, TrainingSet
from lora.training.errors import TrainingError
from lora.training.folds import assign_groups, fold_of
from schemas import Role
from services.errors import EncodeFailedError
from services.factory.errors import AnchorsError
from services.runtime.client import FleetClient

__all__ = ["anchors", "background", "embed", "is_passing", "save"]

Vector = npt.NDArray[np.float32]


def is_passing(error: BaseException) -> bool:
    """The fleet did not answer now; it may later."""
    if isinstance(error, EncodeFailedError):
        return error.code in ("overloaded", "deadline", "internal")
    return isinstance(error, BusError)


async def embed(client: FleetClient, texts: Sequence[str], role: Role = "query") -> Vector:
    """Base vectors (n, dim). Raises `EncodeFailedError`, `bus.RequestTimeout`."""
    return (await client.encode(texts, role=role, route="base")).vectors


async def background(client: FleetClient, folder: Path, model: str) -> Path:
    """The file (.npy) of the background questions' base vectors, made once per model.

    `model` is the SHA-256 of its weights.
    """
    questions = background_digest().removeprefix("sha256:")
    file = folder / f"background-{model}-{questions[:16]}.npy"
    if not file.exists():
        save(file, await embed(client, background_questions()))
    return file


async def anchors(client: FleetClient, given: Path, folder: Path, model: str) -> Path:
    """The user's trusted pairs as a dataset file with base vectors, made once per file and model.

    `given` is a Parquet file with the text columns `query` and `passage`, a row per pair, or a
    dataset already. Raises `AnchorsError`.
    """
    try:
        raw = given.read_bytes()
    except OSError as error:
        raise AnchorsError(f"the anchors {given} cannot be read: {error.strerror}") from error
    try:
        TrainingSet.read(given)
    except TrainingError:
        pass
    else:
        return given
    name = hashlib.sha256(raw + model.encode()).hexdigest()
    place = folder / f"anchors-{name}"
    made = sorted(place.glob("*.parquet"))
    if made:
        return made[0]
    queries, passages, labels = _pairs(raw, given)
    vectors = await embed(client, queries)
    groups = assign_groups(queries, vectors)
    data = TrainingSet.build(
        queries=queries,
        query_vectors=vectors,
        groups=groups,
        folds=[fold_of(group) for group in groups.tolist()],
        passages=passages,
        passage_vectors=await embed(client, passages, "document"),
        labels=labels,
        metadata={"anchors": given.name},
    )
    digest = data.write(place)
    return place / f"{digest.removeprefix('sha256:')}.parquet"


def _pairs(raw: bytes, given: Path) -> tuple[list[str], list[str], list[Label]]:
    try:
        table: Any = pq.read_table(pa.BufferReader(raw), columns=["query", "passage"])
        columns = (table.column(name).to_pylist() for name in ("query", "passage"))
        rows = list(zip(*columns, strict=True))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AnchorsError(
            f"the anchors {given} are no Parquet file with columns query and passage: {why}"
        ) from error
    if not rows or any(not isinstance(text, str) or not text for row in rows for text in row):
        raise AnchorsError(f"the anchors {given} need at least one row, and text in every cell")
    queries = list(dict.fromkeys(query for query, _ in rows))
    passages = list(dict.fromkeys(passage for _, passage in rows))
    pairs = dict.fromkeys((queries.index(query), passages.index(text)) for query, text in rows)
    return queries, passages, [(row, column, 1.0, FEEDBACK) for row, column in pairs]


def save(file: Path, vectors: Vector) -> None:
    """Write vectors as .npy, beside and renamed."""
    beside = file.with_name(file.name + ".writing")
    with beside.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(vectors, np.float32), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
