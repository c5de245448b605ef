"""A classification data set read as retrieval: texts are queries, category names are passages."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["DataError", "DataSet", "Queries", "read"]


class DataError(Exception):
    """The folder does not hold a data set of the expected form; says what is wrong."""


@dataclass(frozen=True)
class Queries:
    """Texts, and for each the index of its category."""

    texts: tuple[str, ...]
    own: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, count: int, seed: int) -> Queries:
        """`count` different ones, drawn at random."""
        if count > len(self):
            raise DataError(f"{count} pieces of feedback were asked for, there are {len(self)}")
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return Queries(
            tuple(self.texts[index] for index in chosen), tuple(self.own[index] for index in chosen)
        )


@dataclass(frozen=True)
class DataSet:
    """What feedback is drawn from, what is measured, and what is ranked."""

    train: Queries
    test: Queries
    passages: tuple[str, ...]


def read(folder: Path) -> DataSet:
    """`train.csv` and `test.csv` (columns text, category) and `categories.json` (a list of names).

    A passage is a category's name with spaces for underscores. Raises `DataError`.
    """
    names = _names(folder / "categories.json")
    place = {name: index for index, name in enumerate(names)}
    train, test = (_queries(folder / f"{half}.csv", place) for half in ("train", "test"))
    known = set(test.texts)
    last = {text: index for index, text in enumerate(train.texts)}
    fresh = [index for text, index in last.items() if text not in known]
    return DataSet(
        # No query is given twice, and none of the test set: that is taken as it is.
        train=Queries(
            tuple(train.texts[index] for index in fresh), tuple(train.own[index] for index in fresh)
        ),
        test=test,
        passages=tuple(name.replace("_", " ") for name in names),
    )


def _names(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected a JSON list of category names") from None
    except ValueError as e:
        raise DataError(f"{path} is not JSON: {e}") from e
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path} should hold a list of category names")
    if len(set(found)) != len(found) or len(found) < 2:
        raise DataError(f"{path} should hold at least two different names")
    return found


def _queries(path: Path, place: dict[str, int]) -> Queries:
    texts: list[str] = []
    own: list[int] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not {"text", "category"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path} should have the columns text and category")
            for row in reader:
                text, name = row["text"].strip(), row["category"]
                if name not in place:
                    raise DataError(f"{path}, line {reader.line_num}: unknown category {name!r}")
                if text:
                    texts.append(text)
                    own.append(place[name])
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    if not texts:
        raise DataError(f"{path} holds no queries")
    return Queries(tuple(texts), tuple(own))
