"""The same for several things, a few of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["several"]

_P = TypeVar("_P")
_T = TypeVar("_T")


async def several(
    work: Callable[[_P], Coroutine[Any, Any, _T]], parts: Sequence[_P], *, at_once: int
) -> list[_T]:
    """What `work` makes of each part, in their order, `at_once` of them at a time.

    Raises what the first to fail raises; the others are cancelled.
    """
    if len(parts) == 1:  # nearly always, and a task takes longer than many a part's work
        return [await work(parts[0])]
    gate = asyncio.Semaphore(at_once)

    async def gated(part: _P) -> _T:
        async with gate:
            return await work(part)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gated(part)) for part in parts]
    except ExceptionGroup as failed:  # the first tells why; the others were cancelled or alike
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
