"""When a process that failed is started again, and when no more."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.runtime.settings import FleetSettings

__all__ = ["Failures", "RestartPolicy"]


@dataclass(frozen=True)
class RestartPolicy:
    """Exponential backoff with jitter, and a limit."""

    limit: int
    """So many failures within the window are too many."""
    window: float
    """Seconds."""
    first: float
    """Seconds before the first restart; doubles with every failure within the window."""
    longest: float
    """Seconds; no wait is longer."""

    @classmethod
    def of(cls, settings: FleetSettings) -> RestartPolicy:
        """The policy that the settings ask for."""
        return cls(
            limit=settings.max_failures,
            window=settings.failure_window,
            first=settings.backoff_first,
            longest=settings.backoff_max,
        )


class Failures:
    """The recent failures of one process."""

    def __init__(
        self, policy: RestartPolicy, *, clock: Callable[[], float], chance: random.Random
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._times: deque[float] = deque()

    def record(self) -> float | None:
        """Note a failure now; the seconds to wait before the restart, or None: no restart.

        The wait is drawn from the upper half of the backoff, so that processes which failed
        together do not come back together.
        """
        now = self._clock()
        self._times.append(now)
        while self._times[0] <= now - self._policy.window:
            self._times.popleft()
        if len(self._times) >= self._policy.limit:
            return None
        doubled = self._policy.first * 2.0 ** (len(self._times) - 1)
        return min(doubled, self._policy.longest) * self._chance.uniform(0.5, 1.0)

    def __len__(self) -> int:
        return len(self._times)
