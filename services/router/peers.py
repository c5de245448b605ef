"""Waiting for skills that only a peer has: one wish per card, whoever wants it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from schemas import SkillCard, SkillWanted

__all__ = ["Peers"]

PAUSE: Final = 60.0
"""Seconds for which a card that could not be had is not wished for again by routing alone; twice as
long after every further time."""

LONGEST_PAUSE: Final = 3600.0
"""Seconds; no pause is longer."""

STRIKES: Final = 3
"""Cards of one peer that may fail to come before routing alone waits for none of its cards."""

REMEMBERED: Final = 4096
"""Cards and peers whose failures are remembered."""


@dataclass
class _Wish:
    """A card that somebody waits for."""

    coming: asyncio.Future[bool]
    waiting: int = 0


@dataclass
class _Failures:
    """How often in a row it failed, and until when it is not tried again."""

    count: int = 0
    until: float = field(default=-math.inf)
    """Seconds, monotonic."""


class Peers:
    """Cards that are on their way."""

    def __init__(
        self,
        say: Callable[[SkillWanted], Awaitable[None]],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._timeout = timeout
        self._clock = clock
        self._wanted: dict[str, _Wish] = {}
        self._failed: OrderedDict[str, _Failures] = OrderedDict()
        """By digest, and by peer with a slash behind it."""

    def paused(self, digest: str, peer: str) -> bool:
        """Whether routing alone does not wait for this card: lately it, or others of its peer's,
        did not come."""
        now = self._clock()
        keys = (digest, f"{peer}/")
        return any(key in self._failed and now < self._failed[key].until for key in keys)

    async def fetch(
        self, card: SkillCard, peer: str, *, named: bool, patience: float = math.inf
    ) -> bool:
        """Wish for a card and wait for it, at most the configured time and not beyond `patience`
        (seconds); whether it came.

        A card that is paused is waited for only where it was `named`.
        """
        if not named and self.paused(card.digest, peer):
            return False
        wish = self._wanted.get(card.digest)
        new = wish is None
        if wish is None:
            wish = _Wish(asyncio.get_running_loop().create_future())
            self._wanted[card.digest] = wish
        wish.waiting += 1
        try:
            if new:
                await self._say(SkillWanted(digest=card.digest, name=card.name, peer=peer))
            await asyncio.wait({wish.coming}, timeout=min(self._timeout, patience))
        finally:
            wish.waiting -= 1
            # Whoever still waits hears of it; who comes when nobody does wishes anew.
            if not wish.waiting and self._wanted.get(card.digest) is wish:
                del self._wanted[card.digest]
        came = wish.coming.done() and wish.coming.result()
        if came:
            self._failed.pop(f"{peer}/", None)
        else:
            self._fail(card.digest, peer)
        return came

    def installed(self, digest: str) -> None:
        """A card is here now."""
        self._failed.pop(digest, None)
        self._end(digest, True)

    def unavailable(self, digest: str) -> None:
        """A card cannot be had."""
        self._end(digest, False)

    def _end(self, digest: str, came: bool) -> None:
        wish = self._wanted.pop(digest, None)
        if wish is not None and not wish.coming.done():
            wish.coming.set_result(came)

    def _fail(self, digest: str, peer: str) -> None:
        now = self._clock()
        if digest in self._failed and now < self._failed[digest].until:
            return  # others waited for the same card and have said so
        for key, free in ((digest, 0), (f"{peer}/", STRIKES - 1)):
            failures = self._failed.setdefault(key, _Failures())
            self._failed.move_to_end(key)
            if now < failures.until:
                continue  # what is named meanwhile makes no pause longer
            failures.count += 1
            again = failures.count - free
            if again > 0:
                failures.until = now + min(PAUSE * 2.0 ** min(again - 1, 20), LONGEST_PAUSE)
        while len(self._failed) > REMEMBERED:
            self._failed.popitem(last=False)
