"""Ranks for many layers under one budget of parameters; torch-free."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

from lora.adapter import MAX_RANK
from lora.errors import ConfigError

__all__ = ["gini", "parameters", "share_ranks", "top_tenth"]


def share_ranks(
    scores: Mapping[str, float],
    shapes: Mapping[str, tuple[int, int]],
    budget: int,
    *,
    max_rank: int = MAX_RANK,
) -> dict[str, int]:
    """Rank by module, 1 or above, with at most `budget` parameters in all; modules may get none.

    Maximises `Σ score_m · ln(1 + rank_m)` where `Σ rank_m · (in_m + out_m) ≤ budget`: water-filling
    (Cover and Thomas, Elements of Information Theory, 9.4), in which a layer's first directions
    count most and each further one less. One unit of rank after the other goes where a parameter
    gains most, which is optimal but for what the last unit leaves over.

    Args:
        scores: 0 or above; a module with 0 gets nothing.
        shapes: width of each module's input and output.
        budget: parameters of all adapters together.
        max_rank: largest rank of one module.

    Raises:
        ConfigError: a score is negative or not finite, or the budget buys not one unit of rank.
    """
    bad = [name for name, score in scores.items() if not (math.isfinite(score) and score >= 0)]
    if bad:
        raise ConfigError(f"scores must be finite and 0 or above, not so for {', '.join(bad)}")
    if max_rank < 1:
        raise ConfigError(f"max_rank must be at least 1, not {max_rank}")

    def gain(name: str, rank: int) -> float:
        return scores[name] * math.log((rank + 2) / (rank + 1)) / sum(shapes[name])

    ranks: dict[str, int] = {}
    left = budget
    # Ties go to the module named first.
    heap = [(-gain(name, 0), i, name) for i, name in enumerate(scores) if scores[name] > 0]
    heapq.heapify(heap)
    while heap:
        _, i, name = heapq.heappop(heap)
        if sum(shapes[name]) > left:
            continue
        left -= sum(shapes[name])
        rank = ranks[name] = ranks.get(name, 0) + 1
        if rank < min(max_rank, *shapes[name]):
            heapq.heappush(heap, (-gain(name, rank), i, name))
    if not ranks:
        raise ConfigError(f"a budget of {budget} parameters buys no rank in any of these layers")
    return {name: ranks[name] for name in scores if name in ranks}


def parameters(ranks: Mapping[str, int], shapes: Mapping[str, tuple[int, int]]) -> int:
    """Numbers in the adapters of these ranks: Σ rank · (in + out)."""
    return sum(rank * sum(shapes[name]) for name, rank in ranks.items())


def gini(values: Mapping[str, float] | list[float]) -> float:
    """How unequal values of 0 or above are: 0 where all are equal, near 1 where one has all.

    The mean absolute difference of all pairs over twice the mean (Gini, 1912); 0 for no values.
    """
    ordered = sorted(values.values() if isinstance(values, Mapping) else values)
    total, n = math.fsum(ordered), len(ordered)
    if not total:
        return 0.0
    weighted = math.fsum((2 * i - n + 1) * value for i, value in enumerate(ordered))
    return weighted / (n * total)


def top_tenth(values: Mapping[str, float] | list[float]) -> float:
    """Share of the sum that the largest tenth holds, at least one value; 0 for no values."""
    ordered = sorted(values.values() if isinstance(values, Mapping) else values, reverse=True)
    total = math.fsum(ordered)
    return math.fsum(ordered[: math.ceil(len(ordered) / 10)]) / total if total else 0.0
