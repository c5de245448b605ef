"""Waking a waiting coroutine, without a queue and without losing anything to a cancellation."""

from __future__ import annotations

import asyncio

__all__ = ["Signal"]


class Signal:
    """`set` wakes all who wait; the condition itself lives with its owner, who checks again."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    def set(self) -> None:
        """Wake everybody who waits now."""
        if self._waiting:
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    def close(self) -> None:
        """Wake everybody, now and from now on."""
        self._closed = True
        self.set()

    async def wait(self, timeout: float | None = None) -> None:
        """Return at the next `set`; raises `TimeoutError` after `timeout` seconds."""
        if self._closed:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            if timeout is None:
                await future
            else:
                async with asyncio.timeout(timeout):
                    await future
        finally:
            self._waiting.discard(future)
