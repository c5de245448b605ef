"""The two tasks: many queries for 77 categories, and many functions that nobody asked for yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from benchmarks.learning.data import DataError, DataSet, Queries, read
from demo.domain import Pair, pairs, split

__all__ = ["TASKS", "Held", "task"]

Held = Literal["test", "internal"]
"""What is measured on: the held-out half, or a part of the half that feedback is drawn from."""

_INTERNAL = 3
"""One in so many queries of the training half is held out where the split is internal."""


def task(name: str, folder: Path | None, held: Held) -> DataSet:
    """One of `TASKS`; nothing of the held-out half is in an internal split but its passages.

    Raises `DataError`.
    """
    try:
        make = TASKS[name]
    except KeyError:
        raise DataError(f"there is no task {name!r}, only {', '.join(TASKS)}") from None
    found = make(folder)
    return found if held == "test" else _internal(found)


def _banking(folder: Path | None) -> DataSet:
    if folder is None:
        raise DataError("banking77 is read from the folder that --data names")
    return read(folder)


def _stdlib(_: Path | None) -> DataSet:
    """Docstrings' first sentences for signatures; held out are whole functions."""
    try:
        everything = pairs()
    except RuntimeError as error:
        raise DataError(str(error)) from error
    halves = split(everything)
    place = {pair.name: index for index, pair in enumerate(everything)}

    def queries(half: tuple[Pair, ...]) -> Queries:
        return Queries(tuple(pair.query for pair in half), tuple(place[pair.name] for pair in half))

    return DataSet(
        train=queries(halves.feedback),
        test=queries(halves.held_out),
        passages=tuple(pair.passage for pair in everything),
    )


def _internal(data: DataSet) -> DataSet:
    """By a hash of the query, so that the split is the same for every size and seed."""

    def out(text: str) -> bool:
        return hashlib.sha256(f"internal {text}".encode()).digest()[0] % _INTERNAL == 0

    def part(held: bool) -> Queries:
        both = zip(data.train.texts, data.train.own, strict=True)
        kept = [(text, own) for text, own in both if out(text) == held]
        return Queries(tuple(text for text, _ in kept), tuple(own for _, own in kept))

    return DataSet(train=part(False), test=part(True), passages=data.passages)


TASKS: dict[str, Callable[[Path | None], DataSet]] = {"banking77": _banking, "stdlib": _stdlib}
"""How each task is made from the folder of `--data`."""
