"""Log lines that whoever is refused can cause: a flood of them stays a few lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["Seldom", "shown"]

AT_ONCE = 10
"""Lines that may come in a row."""
EVERY = 5.0
"""Seconds after which one more may."""
LONGEST = 200
"""Characters of what somebody else wrote that are shown."""


class Seldom:
    """Warnings of one kind; what was not logged is counted with the next that is.

    `clock`: seconds, monotonic.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._room = float(AT_ONCE)
        self._since = clock()
        self._silent = 0

    def warning(self, text: str, *values: object) -> None:
        """Log it, or count it."""
        now = self._clock()
        self._room = min(self._room + (now - self._since) / EVERY, float(AT_ONCE))
        self._since = now
        if self._room < 1:
            self._silent += 1
            return
        self._room -= 1
        if self._silent:
            text, values = f"{text} (and %d more like it)", (*values, self._silent)
            self._silent = 0
        self._log.warning(text, *values)


def shown(text: str) -> str:
    """Others' words for a line of the log: of bounded length, and of one line."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")
