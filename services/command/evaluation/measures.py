"""nDCG, reciprocal rank and recall of ranked lists, and what a difference between two is worth.

All take `relevance` (queries, depth): the judged relevance of what was ranked first, second and
so on, 0 or below where it was not judged or not relevant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "FEWEST",
    "Difference",
    "compare",
    "discounted",
    "intervals",
    "ndcg",
    "recall",
    "reciprocal_rank",
]

Floats = npt.NDArray[np.float64]

RESAMPLES: Final = 10_000

FEWEST: Final = 6
"""So many queries must differ before a difference can count as proven: with five that all point
one way a sign test gives 1/16, while the bootstrap, which draws from them alone, sees no doubt."""

_BLOCK: Final = 1 << 22
"""Numbers of one block of resamples, which bounds the memory."""


class Difference(NamedTuple):
    """The mean of `after - before` over queries."""

    mean: float
    low: float
    """Lower end of the two-sided 95 % interval."""
    high: float
    better: int
    """Queries that gained."""
    worse: int

    @property
    def proven(self) -> bool:
        """The interval does not hold 0, and more than a handful of queries differ."""
        return (self.low > 0 or self.high < 0) and self.better + self.worse >= FEWEST


def discounted(gains: npt.ArrayLike, k: int) -> Floats:
    """Σ gain / log2(rank + 1) over the first `k` of (queries, depth); (queries,)."""
    first = np.asarray(gains, np.float64)[:, :k]
    found: Floats = first @ (1.0 / np.log2(np.arange(2, first.shape[1] + 2)))
    return found


def ndcg(relevance: npt.ArrayLike, judged: Sequence[Sequence[int]], k: int) -> Floats:
    """nDCG@k as `ndcg_cut` of trec_eval (and so pytrec_eval and BEIR); (queries,), 0 to 1.

    A document's gain is its relevance itself, not 2^relevance - 1, and the ideal ranking is that of
    all judged relevances above 0, `judged`, one list a query. One below 0 costs nothing.
    """
    gains = np.maximum(np.asarray(relevance), 0)
    ideal = np.zeros((len(judged), k))
    for row, values in enumerate(judged):
        best = sorted((value for value in values if value > 0), reverse=True)[:k]
        ideal[row, : len(best)] = best
    most = discounted(ideal, k)
    found: Floats = np.divide(discounted(gains, k), most, out=np.zeros(len(judged)), where=most > 0)
    return found


def reciprocal_rank(relevance: npt.ArrayLike, k: int) -> Floats:
    """1 / rank of the first relevant document, 0 where none is among the first `k`; (queries,)."""
    hit = np.asarray(relevance)[:, :k] > 0
    found: Floats = np.where(hit.any(axis=1), 1.0 / (hit.argmax(axis=1) + 1.0), 0.0)
    return found


def recall(relevance: npt.ArrayLike, relevant: npt.ArrayLike, k: int) -> Floats:
    """Share of all `relevant` (queries,) documents that is among the first `k`; (queries,)."""
    count = np.asarray(relevant, np.float64)
    hits = (np.asarray(relevance)[:, :k] > 0).sum(axis=1)
    found: Floats = np.divide(hits, count, out=np.zeros(len(count)), where=count > 0)
    return found


def compare(before: npt.ArrayLike, after: npt.ArrayLike, *, seed: int = 0) -> list[Difference]:
    """For each column of (queries, measures) what was gained, with its interval.

    All columns are judged on the same resamples of the queries, drawn from `seed`.
    """
    gained = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    ends = intervals(gained, seed=seed)
    better, worse = (gained > 0).sum(axis=0), (gained < 0).sum(axis=0)
    return [
        Difference(float(mean), float(low), float(high), int(up), int(down))
        for mean, (low, high), up, down in zip(
            gained.mean(axis=0), ends, better, worse, strict=True
        )
    ]


def intervals(values: npt.ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Ends of the two-sided 95 % interval of each column's mean: (columns, 2) of (rows, columns).

    Percentile bootstrap over whole rows (Efron and Tibshirani, An Introduction to the Bootstrap,
    ch. 13).
    """
    rows = np.asarray(values, np.float64)
    count = len(rows)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, rows.shape[1]))
    block = max(1, _BLOCK // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, count, (size, count))
        drawn += count * np.arange(size)[:, None]  # how often each row came, of all at once
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times @ rows / count
    ends: Floats = np.quantile(means, [0.025, 0.975], axis=0).T
    return ends
