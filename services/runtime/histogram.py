"""Histograms as plain counters: heartbeats carry them, and two moments of one can be subtracted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

__all__ = ["MILLISECONDS", "ROWS", "Buckets", "Histogram"]

MILLISECONDS: Final = (2, 5, 10, 20, 50, 100, 150, 250, 400, 700, 1000, 2500, 5000, 10_000, 30_000)
"""Upper bounds for durations, in milliseconds."""

ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds for the size of a batch, in texts."""


class Histogram:
    """Counts values by the first bound that is not below them.

    Told as `NAME_le_BOUND` for every bound (how many were no larger), `NAME_count` and `NAME_sum`,
    all since the process started.
    """

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._names = tuple(f"{name}_le_{bound:g}" for bound in bounds)
        self._name = name
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def counters(self) -> dict[str, int | float]:
        """What a heartbeat says of it."""
        below = list(accumulate(self._counts))
        return {
            **dict(zip(self._names, below, strict=False)),
            f"{self._name}_count": below[-1],
            f"{self._name}_sum": round(self._sum, 3),
        }


class Buckets(NamedTuple):
    """A histogram as it was told: cumulative, and fractional where a stretch of it is meant."""

    bounds: tuple[float, ...]
    below: tuple[float, ...]
    """How many values were no larger than each bound."""
    total: float
    """How many there were."""
    summed: float

    @classmethod
    def of(cls, counters: Mapping[str, int | float], name: str) -> Buckets | None:
        """The histogram `name` among the counters of a heartbeat; None where there is none."""
        prefix = f"{name}_le_"
        found = []
        for key, value in counters.items():
            if key.startswith(prefix):
                try:
                    found.append((float(key.removeprefix(prefix)), float(value)))
                except ValueError:  # another program's counter, which happens to be called so
                    continue
        if not found or f"{name}_count" not in counters:
            return None
        found.sort()
        return cls(
            tuple(bound for bound, _ in found),
            tuple(value for _, value in found),
            float(counters[f"{name}_count"]),
            float(counters.get(f"{name}_sum", 0.0)),
        )

    def plus(self, other: Buckets, share: float = 1.0) -> Buckets:
        """This and a share of another one with the same bounds; -1 subtracts it."""
        if self.bounds != other.bounds:
            return self if share < 0 else other
        return Buckets(
            self.bounds,
            tuple(a + share * b for a, b in zip(self.below, other.below, strict=True)),
            self.total + share * other.total,
            self.summed + share * other.summed,
        )

    def quantile(self, share: float) -> float | None:
        """The value that this share of all is no larger than, between bounds as if evenly spread;
        the last bound where it lies beyond, None where nothing was counted."""
        if self.total <= 0:
            return None
        wanted, low, before = share * self.total, 0.0, 0.0
        for bound, below in zip(self.bounds, self.below, strict=True):
            if below >= wanted and below > before:
                return low + (bound - low) * (wanted - before) / (below - before)
            low, before = bound, max(before, below)
        return self.bounds[-1]
