"""How much of something may be had in a stretch of time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

__all__ = ["HOUR", "MINUTE", "Once", "Quota"]

HOUR = 3600.0
MINUTE = 60.0


class Quota:
    """`most` at once or within `period` seconds, and as much again in the next; None: without end.

    `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        most: int | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        period: float = HOUR,
    ) -> None:
        self.most = most
        self._clock = clock
        self._period = period
        self._left = float(most or 0)
        self._since = clock()

    def take(self, pieces: int) -> float:
        """Take so many, and return 0.0; or take none, and return the seconds until they are there.

        What exceeds a whole period's is never there: the seconds are infinite.
        """
        if self.most is None:
            return 0.0
        now = self._clock()
        came = (now - self._since) * self.most / self._period
        self._left = min(self._left + came, float(self.most))
        self._since = now
        if pieces <= self._left:
            self._left -= pieces
            return 0.0
        if pieces > self.most:
            return float("inf")
        return (pieces - self._left) * self._period / self.most


class Once:
    """A quota by the minute in which what is sent again, as long as that, counts once.

    What it remembers is as much as the quota lets through: every piece counts one at the least.
    """

    def __init__(self, most: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._quota = Quota(most, clock, period=MINUTE)
        self._counted: OrderedDict[int, float] = OrderedDict()
        """When, by the hash of what was counted; the oldest first."""

    def take(self, what: Hashable, pieces: int) -> float:
        """As `Quota.take`; nothing is taken for `what` was counted within the last minute."""
        if self.most is None:
            return 0.0
        now = self._clock()
        while self._counted and next(iter(self._counted.values())) <= now - MINUTE:
            self._counted.popitem(last=False)
        known = hash(what)
        if known in self._counted:
            return 0.0
        wait = self._quota.take(max(pieces, 1))
        if not wait:
            self._counted[known] = now
        return wait
