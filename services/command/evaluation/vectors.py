"""The vectors of a corpus, block by block, on the disk: embedded once, and used again.

CACHE/<model>/<digest of the block's texts>.npy, each (documents, dim) float32. A block is there as
a whole or not at all, so an evaluation that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from services.command.evaluation.errors import OtherVectors
from services.command.evaluation.folder import Block, Collection, texts_of
from services.runtime.client import Encoded, FleetClient

__all__ = ["Corpus", "embedded", "summed"]

Floats = npt.NDArray[np.float32]

SAME: Final = 0.999
"""Least cosine of one text's vectors in two batches, or on two machines; other models are far
below it."""

_ASKED_AGAIN: Final = 4


@dataclass(frozen=True)
class Corpus:
    """The vectors of all documents, on the disk."""

    files: tuple[Path, ...]
    fresh: int
    """Documents that were embedded now; the others were found."""

    def blocks(self) -> Iterator[Floats]:
        """(documents, dim) of one block after the other."""
        for file in self.files:
            yield np.load(file)


async def embedded(
    client: FleetClient,
    collection: Collection,
    cache: Path,
    model: str | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, found: None,
) -> Corpus:
    """The base vectors of all documents, from the cache where it has them.

    `model`: SHA-256 of the fleet's weights, where it is known. `progress` hears how many documents
    are done in all, and how many of these were found.

    Raises `OtherVectors`, and what `FleetClient.encode` and the disk raise.
    """
    probe = await _asked_again(client, collection, collection.blocks[0])
    width = probe.vectors.shape[1]
    name = model or f"id-{hashlib.sha256(probe.model.encode()).hexdigest()}"
    folder = cache / name[:20]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files: list[Path] = []
    found = 0
    for block in collection.blocks:
        file = folder / f"{block.digest}.npy"
        files.append(file)
        if _shape(file) == (block.count, width):
            if not found:
                again = probe if not block.start else await _asked_again(client, collection, block)
                _check(file, again.vectors)
            found += block.count
        else:
            texts = texts_of(collection, block)
            more = summed(partial(_told, progress, found), block.start)
            made = await client.encode(texts, role="document", route="base", progress=more)
            _write(file, made.vectors)
        progress(block.start + block.count, found)
    return Corpus(tuple(files), len(collection.ids) - found)


def summed(tell: Callable[[int], None], start: int = 0) -> Callable[[int], None]:
    """What hears how many more are done, and tells how many are in all."""
    done = start

    def more(count: int) -> None:
        nonlocal done
        done += count
        tell(done)

    return more


def _told(progress: Callable[[int, int], None], found: int, done: int) -> None:
    progress(done, found)


async def _asked_again(client: FleetClient, collection: Collection, block: Block) -> Encoded:
    """The first few documents of a block."""
    few = texts_of(collection, block)[:_ASKED_AGAIN]
    return await client.encode(few, role="document", route="base")


def _check(file: Path, again: Floats) -> None:
    """A model's name and weights do not tell all of it, such as its prompts: its vectors do."""
    stored = np.load(file, mmap_mode="r")[: len(again)]
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(again, axis=1)
    if ((stored * again).sum(axis=1) < SAME * lengths).any():
        raise OtherVectors(
            f"the vectors in {file.parent} are not those of the fleet's model: remove that folder, "
            "or name another --cache"
        )


def _shape(file: Path) -> tuple[int, ...]:
    """Of the whole file; of one that is not there, or damaged, none."""
    try:
        found: tuple[int, ...] = np.load(file, mmap_mode="r").shape
    except (OSError, ValueError, EOFError):
        return ()
    return found


def _write(file: Path, vectors: Floats) -> None:
    """Beside, and renamed once it is on the disk: what bears the name is whole."""
    beside = file.with_suffix(f".{os.getpid()}.part")
    try:
        with beside.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(vectors, np.float32))
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
