"""How much of something may be had in an hour."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Quota"]

HOUR = 3600.0


class Quota:
    """`most` at once or within an hour, and as much again in the next; None: without end.

    `clock`: seconds, monotonic.
    """

    def __init__(self, most: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._left = float(most or 0)
        self._since = clock()

    def take(self, pieces: int) -> float:
        """Take so many, and return 0.0; or take none, and return the seconds until they are there.

        What exceeds a whole hour's is never there: the seconds are infinite.
        """
        if self.most is None:
            return 0.0
        now = self._clock()
        self._left = min(self._left + (now - self._since) * self.most / HOUR, float(self.most))
        self._since = now
        if pieces <= self._left:
            self._left -= pieces
            return 0.0
        if pieces > self.most:
            return float("inf")
        return (pieces - self._left) * HOUR / self.most
