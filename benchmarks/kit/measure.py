"""Retrieval figures: ranks, recall, reciprocal rank, and paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Figures",
    "Gain",
    "best_wrong",
    "figures",
    "paired_gain",
    "percentile",
    "ranks_of",
    "reciprocal",
    "unit",
]

CUTOFF = 10
BLOCK = 1024

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Figures(NamedTuple):
    """How well queries found their passages."""

    recall: float
    """Share ranked first, 0 to 1."""
    mrr: float
    """MRR@10, 0 to 1."""
    queries: int


class Gain(NamedTuple):
    """The mean of paired differences, with its two-sided 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def unit(vectors: npt.ArrayLike) -> Floats:
    """Rows of (n, dim) scaled to length 1; a zero row stays zero."""
    given = np.asarray(vectors, np.float32)
    scaled: Floats = given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-12)
    return scaled


def ranks_of(queries: npt.ArrayLike, passages: npt.ArrayLike, relevant: npt.ArrayLike) -> Ints:
    """Rank, from 1, of each query's one relevant passage among all; a tie counts against it.

    `queries` (n, dim), `passages` (m, dim) any length, `relevant` (n,) indexes of passages.
    """
    asked, stored = unit(queries), unit(passages)
    wanted = np.asarray(relevant, np.int64)
    found = np.empty(len(asked), np.int64)
    for start in range(0, len(asked), BLOCK):
        part = slice(start, start + BLOCK)
        scores = asked[part] @ stored.T
        own = np.take_along_axis(scores, wanted[part, None], axis=1)
        found[part] = (scores >= own).sum(axis=1)  # its own passage counts itself: from 1
    return found


def best_wrong(
    queries: npt.ArrayLike, passages: npt.ArrayLike, relevant: npt.ArrayLike, first: int = CUTOFF
) -> list[list[int]]:
    """For each query the wrong passages among the `first` ranked, best first: (n,) lists."""
    asked, stored = unit(queries), unit(passages)
    wanted = np.asarray(relevant, np.int64)
    wrong: list[list[int]] = []
    for start in range(0, len(asked), BLOCK):
        scores = asked[start : start + BLOCK] @ stored.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :first]
        for row, own in zip(order, wanted[start : start + BLOCK], strict=True):
            wrong.append([int(index) for index in row if index != own])
    return wrong


def reciprocal(ranks: npt.ArrayLike, cutoff: int = CUTOFF) -> npt.NDArray[np.float64]:
    """Reciprocal ranks (n,), 0 beyond the cutoff."""
    given = np.asarray(ranks, np.float64)
    gains: npt.NDArray[np.float64] = np.where(given <= cutoff, 1.0 / given, 0.0)
    return gains


def figures(ranks: npt.ArrayLike) -> Figures:
    """Recall@1 and MRR@10 of ranks (n,)."""
    given = np.asarray(ranks)
    return Figures(float((given == 1).mean()), float(reciprocal(given).mean()), len(given))


def paired_gain(
    before: npt.ArrayLike, after: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> Gain:
    """Bootstrap of the mean of `after - before` over queries (Efron and Tibshirani, ch. 13)."""
    gains = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(1, (1 << 22) // max(1, len(gains)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, len(gains), (size, len(gains)))
        means[start : start + size] = gains[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Gain(float(gains.mean()), float(low), float(high))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; 0 where there are none."""
    return float(np.quantile(np.asarray(values), share)) if len(values) else 0.0
