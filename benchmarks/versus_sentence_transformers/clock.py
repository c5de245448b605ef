"""What "equal time" is counted in: seconds on the wall, or the processor's, of all threads."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Final, Literal

__all__ = ["CLOCKS", "Clock", "of_children", "of_this"]

Clock = Literal["wall", "cpu"]

CLOCKS: Final[tuple[Clock, ...]] = ("wall", "cpu")
"""`cpu` is for a machine that others use too: there a second on the wall is worth ever less."""


def of_this(clock: Clock) -> Callable[[], float]:
    """Seconds of this process, only good for differences."""
    return time.process_time if clock == "cpu" else time.monotonic


def of_children(clock: Clock) -> Callable[[], float]:
    """Seconds of child processes that have ended and were waited for, one after another."""
    return _children_cpu if clock == "cpu" else time.monotonic


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
