"""How many tokens this encoder gets done in a second when it has enough to do."""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

MEMORY: Final = 2.0
"""Seconds of computing over which is averaged."""


class Pace:
    """Tokens a second; small batches, which are slower for each token, count only where they are
    faster than what is known."""

    def __init__(self, enough: int) -> None:
        """`enough` tokens make a batch that shows what can be done."""
        self._enough = enough
        self.rate = 0.0
        """0 until something was computed."""

    def computed(self, tokens: int, seconds: float) -> None:
        """A batch took so long."""
        if seconds <= 0 or not tokens:
            return
        rate = tokens / seconds
        if not self.rate:
            self.rate = rate
        elif tokens >= self._enough:
            weight = min(seconds / MEMORY, 1.0)
            self.rate += weight * (rate - self.rate)
        else:
            self.rate = max(self.rate, rate)
