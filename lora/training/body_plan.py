"""How much of a body's training fits into the time there is; torch-free."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

__all__ = ["SMALL", "Plan", "makespan", "plan"]

SMALL = 200
"""Query groups under which a body is judged on all its folds."""

_MARGIN = 1.15
"""What a plan is held to take, against its arithmetic: the cores are not ours alone."""

_EVALUATION = 0.5
"""A pass without gradients, against one with them."""


@dataclass(frozen=True)
class Plan:
    """What is fitted. `without` names folds; a fit sees the others only."""

    epochs: int
    judged: tuple[int, ...]
    """Folds that are held out, one fold model each."""
    inner: tuple[tuple[int, int], ...]
    """Pairs of folds left out together, to choose settings on."""
    inner_seconds: float
    """What the inner fits should take; 0 where no time was measured."""
    outer_seconds: float
    """The same for the fold models and the final fit, side by side."""
    begun: float = 0.0
    """Seconds of work that came before the first fit."""

    @property
    def seconds(self) -> float:
        """What it should take in all."""
        return self.inner_seconds + self.outer_seconds


def plan(
    sizes: Mapping[int, int],
    groups: int,
    *,
    epochs: int,
    workers: int,
    per_row: float,
    budget: float | None,
    evaluations: int = 2,
) -> Plan:
    """The most thorough plan that the budget allows, and the smallest where none fits.

    Args:
        sizes: queries of each fold.
        groups: query groups to be judged; from 200 on, one fold held out may do.
        epochs: passes wanted; fewer are planned before a fold is given up, down to two thirds.
        per_row: seconds that one query takes in a step, measured with all workers at work.
        budget: seconds left; None for as long as it takes.
        evaluations: passes over the two held-out folds after each inner fit.
    """
    last: Plan | None = None
    for judged, inner, passes in _options(sizes, groups, epochs):
        fits = [
            passes * _rows(sizes, pair) + _EVALUATION * evaluations * sum(sizes[f] for f in pair)
            for pair in inner
        ]
        outer = [passes * _rows(sizes, (fold,)) + _EVALUATION * sizes[fold] for fold in judged]
        whole = passes * _rows(sizes, ())
        each = per_row * _MARGIN
        inside, outside = makespan(fits, workers), makespan([*outer, whole], workers)
        last = Plan(passes, judged, inner, inside * each, outside * each)
        if budget is None or last.seconds <= budget:
            return last
    return last or Plan(1, (), (), 0.0, 0.0)


def makespan(costs: Iterable[float], workers: int) -> float:
    """When the last of these jobs ends, the longest begun first."""
    ends = [0.0] * max(1, workers)
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends)


def _options(
    sizes: Mapping[int, int], groups: int, epochs: int
) -> Iterator[tuple[tuple[int, ...], tuple[tuple[int, int], ...], int]]:
    folds = sorted(fold for fold, size in sizes.items() if size)
    # A ring gives every fold two others to choose its settings on, at half of what all pairs cost.
    count = len(folds)
    ring = sorted({tuple(sorted((folds[i], folds[(i + 1) % count]))) for i in range(count)})
    pairs = tuple((a, b) for a, b in combinations(folds, 2) if (a, b) in ring)
    fewest = max(1, -(-2 * epochs // 3))
    for passes in range(epochs, fewest - 1, -1):
        yield tuple(folds), pairs, passes
    # Half as many pairs still give every fold one other.
    few = tuple(pairs[i] for i in _cover(pairs, folds))
    for passes in range(epochs, fewest - 1, -1):
        yield tuple(folds), few, passes
    if groups >= SMALL and count > 2:
        held = max(folds, key=lambda fold: (sizes[fold], -fold))
        near = tuple(pair for pair in pairs if held in pair)
        for passes in range(epochs, fewest - 1, -1):
            yield (held,), near, passes
            yield (held,), near[:1], passes
        fewest_folds: tuple[tuple[int, ...], tuple[tuple[int, int], ...]] = (held,), near[:1]
    else:
        fewest_folds = tuple(folds), few
    for passes in range(fewest - 1, 0, -1):
        yield (*fewest_folds, passes)


def _rows(sizes: Mapping[int, int], without: tuple[int, ...]) -> int:
    return sum(size for fold, size in sizes.items() if fold not in without)


def _cover(pairs: tuple[tuple[int, int], ...], folds: list[int]) -> list[int]:
    """Indexes of few pairs in which every fold occurs."""
    seen: set[int] = set()
    chosen: list[int] = []
    for least in (2, 1):
        for index, pair in enumerate(pairs):
            if len(set(pair) - seen) >= least:
                chosen.append(index)
                seen |= set(pair)
    return sorted(chosen) if len(seen) == len(folds) else list(range(len(pairs)))
