"""What the supervisor hears of its processes, whoever carries it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

__all__ = ["Beat", "Listen", "StopOrder"]


@dataclass(frozen=True)
class Beat:
    """A process says that it is alive, and how it is."""

    pid: int
    state: str
    """`starting`, `ready`, `draining`, `degraded` or `stopped`."""


@dataclass(frozen=True)
class StopOrder:
    """Someone asked the fleet, or one service of it, to stop."""

    service: str | None


Listen = Callable[[], AbstractAsyncContextManager[AsyncIterator[Beat | StopOrder]]]
"""Opens the connection over which beats arrive; called once the first process runs.

Entering may wait until that process answers; the iterator ends or raises when the connection is
lost for good.
"""
