"""How far the journal's news of skills have come to the router."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from schemas import Payload

__all__ = ["CATCH_UP", "Hearing"]

CATCH_UP: Final = 2.0
"""Seconds for which news that are in the journal, and not here yet, are waited for."""


class Hearing:
    """Live requests and journaled news have no order between them: who hears that a skill was
    installed, and names it at once, may be here before the news."""

    def __init__(
        self, heads: Callable[[], Awaitable[Mapping[str, int]]], kinds: Sequence[type[Payload]]
    ) -> None:
        self._heads = heads
        self._kinds = kinds
        self._heard = 0
        self._news = asyncio.Event()

    def heard(self, sequence: int | None) -> None:
        """Everything up to this number has been taken in."""
        self._heard = max(self._heard, sequence or 0)
        self._news.set()

    async def head(self) -> int:
        """The number of the last news in the journal."""
        heads = await self._heads()
        return max((heads.get(kind.type, 0) for kind in self._kinds), default=0)

    async def catch_up(self) -> bool:
        """Wait for what the journal has by now; whether more came than was known when it was asked
        for, be it while the journal was asked."""
        known = self._heard
        head = await self.head()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP):
                while self._heard < head:
                    self._news.clear()
                    await self._news.wait()
        return max(head, self._heard) > known
