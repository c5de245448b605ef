"""The best documents of every query, exactly, with the memory of one block of documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Ranked", "best", "places"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

QUERIES: Final = 512
"""Queries that are held against a block of documents at once."""

_SCALE: Final = 1_000_000
"""Scores count to six decimals, as run files show them: what lies beyond comes from rounding, and
two documents of one text shall tie wherever they stand."""

_NOTHING: Final = np.iinfo(np.int64).min
_LOW: Final = (1 << 32) - 1


class Ranked(NamedTuple):
    """The first documents of each query, best first."""

    documents: Ints
    """(queries, depth) numbers of documents; -1 behind the last one."""
    scores: npt.NDArray[np.float64]
    """(queries, depth) cosines, to six decimals."""

    def part(self, start: int, count: int) -> Ranked:
        """Of `count` queries from `start` on."""
        some = slice(start, start + count)
        return Ranked(self.documents[some], self.scores[some])


def places(ids: list[str]) -> Ints:
    """(n,) the place of each id among all, the greatest first: what decides a tie.

    So does trec_eval, which sorts a run anew and heeds neither its order nor its ranks.
    """
    found = np.empty(len(ids), np.int64)
    order = sorted(range(len(ids)), key=ids.__getitem__, reverse=True)
    found[order] = np.arange(len(ids))
    return found


def best(
    queries: npt.ArrayLike,
    blocks: Iterable[npt.ArrayLike],
    place: Ints,
    depth: int,
    *,
    without: npt.ArrayLike | None = None,
) -> Ranked:
    """The `depth` documents of the highest cosine to each of `queries` (n, dim).

    `blocks` are the vectors of all documents in order, (m, dim) each, of any length. Of documents
    with equal scores the one with the lower `place` comes first. `without` (n,) is the number of a
    document that is no answer to the query, or -1.
    """
    asked = _unit(queries)
    barred = np.full(len(asked), -1) if without is None else np.asarray(without, np.int64)
    kept = np.full((len(asked), depth), _NOTHING)
    start = 0
    for block in blocks:
        documents = _unit(block)
        last = _LOW - place[start : start + len(documents)]
        for first in range(0, len(asked), QUERIES):
            some = slice(first, first + QUERIES)
            keys = np.rint((asked[some] @ documents.T).astype(np.float64) * _SCALE).astype(np.int64)
            keys <<= 32  # score and place in one number, which orders as the two do
            keys |= last
            inside = np.flatnonzero(
                (barred[some] >= start) & (barred[some] < start + len(documents))
            )
            keys[inside, barred[some][inside] - start] = _NOTHING
            both = np.concatenate([kept[some], keys], axis=1)
            kept[some] = np.partition(both, both.shape[1] - depth, axis=1)[:, -depth:]
        start += len(documents)
    kept = np.sort(kept, axis=1)[:, ::-1]
    number = np.empty(start, np.int64)
    number[place[:start]] = np.arange(start)
    there = kept != _NOTHING
    found = np.where(there, number[np.where(there, _LOW - (kept & _LOW), 0)], -1)
    return Ranked(found, np.where(there, (kept >> 32) / _SCALE, 0.0))


def _unit(vectors: npt.ArrayLike) -> Floats:
    rows = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = rows / np.maximum(norms, np.float32(1e-12))
    return scaled
