"""Whether memory grows: Sen's slope with its interval, which a few odd samples cannot bend.

Theil-Sen: the median of the slopes of all pairs of samples. Its interval is Sen's (1968): the pair
slopes at the ranks that Kendall's S leaves at 95 %, as if samples were independent. Memory is not
(it moves in steps), so the interval is narrower than it should be, and a small growth is called
one more often than it is: hence, besides, a tolerance in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np

__all__ = ["Slope", "sen"]

Z: Final = 1.959964
"""The normal quantile of a two-sided 95 %."""

TOLERATED: Final = 2**20
SHARE: Final = 0.01
"""A growth of less than 1 MiB in the time looked at, or of 1 % of what is held, is noise."""


@dataclass(frozen=True)
class Slope:
    """How a quantity moves with time."""

    per_second: float
    low: float
    high: float
    """The ends of the 95 % interval; as the slope, of the quantity's unit per second."""
    span: float
    """Seconds from the first sample to the last."""
    level: float
    """The median of the quantity."""
    samples: int

    @property
    def growth(self) -> float:
        """What the slope comes to over the span."""
        return self.per_second * self.span

    @property
    def is_flat(self) -> bool:
        """Whether the slope is within noise."""
        return self.low <= 0 or self.growth <= max(TOLERATED, SHARE * self.level)


def sen(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of `values` over `times` (seconds, ascending); raises `ValueError` below 3."""
    count = len(times)
    if count < 3 or len(values) != count:
        raise ValueError("three samples or more, each with its time")
    x, y = np.asarray(times, float), np.asarray(values, float)
    first, second = np.triu_indices(count, 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    deviation = Z * sqrt(count * (count - 1) * (2 * count + 5) / 18)
    rank = int((len(slopes) - deviation) / 2)
    low = slopes[max(rank, 0)]
    high = slopes[min(len(slopes) - 1 - rank, len(slopes) - 1)]
    return Slope(
        float(np.median(slopes)),
        float(low),
        float(high),
        float(x[-1] - x[0]),
        float(np.median(y)),
        count,
    )
