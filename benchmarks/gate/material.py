"""Texts and their base vectors, embedded once and shared by all seeds and processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.learning.data import DataError, DataSet, Queries
from lora.card import BaseModel
from lora.training.background import background_questions

__all__ = ["DOMAIN", "HeldOut", "Material", "embed", "split"]

DOMAIN = "banking"
DESCRIPTION = f"Learned from feedback on {DOMAIN}."
"""As the factory describes the skill of this domain: one of its prototypes."""

HeldOut = Literal["test", "train"]
HELD_BACK = 2000
"""Queries of the training file that are measured, and never learned from, with `train`."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Material:
    """Base vectors beside the texts they are of; (n, dim) each."""

    data: DataSet
    base_model: BaseModel
    passages: Floats
    train: Floats
    held_out: Floats
    """Of `data.test`."""
    background: Floats
    description: Floats
    """(dim,)"""

    def write(self, folder: Path) -> None:
        """As files that `read` maps into memory: several processes share them."""
        (folder / "data.json").write_bytes(msgspec.json.encode((self.data, self.base_model)))
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def read(cls, folder: Path) -> Material:
        """What was written there."""
        data, model = msgspec.json.decode(
            (folder / "data.json").read_bytes(), type=tuple[DataSet, BaseModel]
        )
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return cls(data, model, **arrays)


_ARRAYS = ("passages", "train", "held_out", "background", "description")


def split(data: DataSet, held_out: HeldOut) -> DataSet:
    """The data set as it is, or, for development, with a part of the training file as its test."""
    if held_out == "test":
        return data
    train = data.train
    order = np.random.default_rng(0).permutation(len(train))
    if len(order) <= HELD_BACK:
        raise DataError(f"{len(order)} training queries are too few to hold {HELD_BACK} back")
    back, rest = (_rows(train, part) for part in (order[:HELD_BACK], order[HELD_BACK:]))
    return DataSet(train=rest, test=back, passages=data.passages)


def embed(data: DataSet, model: str | None, threads: int) -> Material:
    """Embed everything with the base model; the first seconds go into loading it."""
    # Only who embeds needs torch: the processes that run the seeds import this module too.
    from lora.engine import ArrowEngine

    engine = ArrowEngine(model, threads=threads)
    return Material(
        data=data,
        base_model=engine.base_model,
        passages=engine.encode(data.passages, role="document"),
        train=engine.encode(data.train.texts),
        held_out=engine.encode(data.test.texts),
        background=engine.encode(background_questions()),
        description=engine.encode([DESCRIPTION])[0],
    )


def _rows(queries: Queries, rows: npt.NDArray[np.int64]) -> Queries:
    return Queries(
        tuple(queries.texts[row] for row in rows), tuple(queries.own[row] for row in rows)
    )
