"""Waiting for skills that only a peer has: one wish per card, whoever wants it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from schemas import SkillCard, SkillWanted

__all__ = ["Peers"]

PAUSE: Final = 60.0
"""Seconds for which a card that could not be had is not wished for again by routing alone."""


class Peers:
    """Cards that are on their way."""

    def __init__(self, say: Callable[[SkillWanted], Awaitable[None]], timeout: float) -> None:
        self._say = say
        self._timeout = timeout
        self._wanted: dict[str, asyncio.Future[bool]] = {}
        self._failed: dict[str, float] = {}

    async def fetch(self, card: SkillCard, peer: str, *, named: bool) -> bool:
        """Wish for a card and wait for it, at most the configured time; whether it came.

        A card that lately did not come is waited for again only where it was `named`.
        """
        failed = self._failed.get(card.digest)
        if failed is not None and not named and time.monotonic() - failed < PAUSE:
            return False
        coming = self._wanted.get(card.digest)
        if coming is None:
            coming = asyncio.get_running_loop().create_future()
            self._wanted[card.digest] = coming
            await self._say(SkillWanted(digest=card.digest, name=card.name, peer=peer))
        try:
            came = await asyncio.wait_for(asyncio.shield(coming), self._timeout)
        except TimeoutError:
            came = False
        if not came:
            self._failed[card.digest] = time.monotonic()
            if self._wanted.get(card.digest) is coming:
                del self._wanted[card.digest]
        return came

    def installed(self, digest: str) -> None:
        """A card is here now."""
        self._failed.pop(digest, None)
        self._end(digest, True)

    def unavailable(self, digest: str) -> None:
        """A card cannot be had."""
        self._end(digest, False)

    def _end(self, digest: str, came: bool) -> None:
        coming = self._wanted.pop(digest, None)
        if coming is not None and not coming.done():
            coming.set_result(came)
