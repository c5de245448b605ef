"""Spaces in which texts are compared: the base model's, and those of teachers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt

from lora.training.folds import normalise
from lora.training.gate import unit

__all__ = ["BLOCK", "Nearby", "Space", "nearest"]

Floats = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]

ENOUGH = 0.5
"""A teacher that has vectors of a smaller share of the passages cannot rank among them."""

BLOCK = 512
"""Texts that are compared in one product."""


def nearest(scores: Floats, count: int) -> npt.NDArray[np.int64]:
    """The columns of the `count` highest scores of each row, highest first; of fewer, all.

    Many times faster than sorting whole rows. NaN has no place here.
    """
    if count >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    chosen = np.argpartition(-scores, count, axis=1)[:, :count]
    chosen.sort(axis=1)  # of equal scores the lower column comes first
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


class Space:
    """Cosines of queries to the domain's passages by one model."""

    def __init__(
        self,
        queries: Mapping[str, Vector],
        passages: Mapping[str, Vector],
        known: Sequence[str],
    ) -> None:
        """Vectors (dim,) by text; `known` are the passages among which is ranked."""
        self._queries, self._passages = queries, passages
        self.known = [text for text in known if text in passages]
        """Those of them that this space knows."""
        self.place = {text: row for row, text in enumerate(self.known)}
        self.ranks = len(self.known) > 0 and len(self.known) >= ENOUGH * len(known)
        """It knows enough of them."""
        listed = [passages[text] for text in self.known]
        self._matrix = unit(np.stack(listed)) if listed else np.zeros((0, 1), np.float32)
        self._held: dict[str, Floats] = {}

    def hold(self, queries: Iterable[str]) -> None:
        """Compare these with the passages in one product: until the next `hold` it is at hand."""
        texts = [text for text in dict.fromkeys(queries) if text in self._queries]
        self._held = {}
        if texts and self.known:
            cosines = unit(np.stack([self._queries[text] for text in texts])) @ self._matrix.T
            self._held = dict(zip(texts, cosines, strict=True))

    def knows(self, query: str, passage: str | None = None) -> bool:
        """The query, and the passage where one is given, have vectors here."""
        return query in self._queries and (passage is None or passage in self._passages)

    def cosines(self, query: str) -> Floats:
        """(m,) to the `known` passages."""
        found = self._held.get(query)
        if found is None:
            found = self._matrix @ unit(self._queries[query])
        return found

    def cosine(self, query: str, passage: str) -> float:
        """Of a query to any passage."""
        return float(unit(self._queries[query]) @ unit(self._passages[passage]))

    def rank(self, query: str, passage: str, apart: Set[str] = frozenset()) -> int:
        """Rank, from 1, of a passage among the known ones; those `apart` do not compete.

        A tie counts against it.
        """
        scores = self.cosines(query)
        own = self.place.get(passage)
        score = self.cosine(query, passage) if own is None else float(scores[own])
        ahead = scores >= score
        for text in {passage, *apart} & self.place.keys():
            ahead[self.place[text]] = False
        return int(ahead.sum()) + 1


class Nearby:
    """Finds near-duplicates among texts: a cosine from the threshold on, or the same spelling."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._spelled: dict[str, list[int]] = {}
        self._matrix: Floats | None = None
        self._count = 0

    def add(self, text: str, vector: Vector) -> None:
        """Know one more text, by its vector (dim,)."""
        if self._matrix is None:
            self._matrix = np.zeros((BLOCK, len(vector)), np.float32)
        elif self._count == len(self._matrix):
            self._matrix = np.concatenate([self._matrix, np.zeros_like(self._matrix)])
        self._matrix[self._count] = unit(vector)
        self._spelled.setdefault(normalise(text), []).append(self._count)
        self._count += 1

    def of(self, texts: Sequence[str], vectors: Sequence[Vector]) -> list[set[int]]:
        """Near-duplicates of each: their numbers, from 0 in the order in which they were added."""
        found = [set(self._spelled.get(normalise(text), ())) for text in texts]
        if self._matrix is not None and len(texts):
            cosines = unit(np.stack(list(vectors))) @ self._matrix[: self._count].T
            for at, other in zip(*np.nonzero(cosines >= self._threshold), strict=True):
                found[at].add(int(other))
        return found
