"""What the fleet tells of skills: the manager's list, the journal's news, what peers offer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from schemas import (
    Event,
    PeerLeft,
    SkillCard,
    SkillDiscovered,
    SkillInstalled,
    SkillListed,
    SkillRejected,
    SkillRetired,
)
from services.router.hearing import Hearing
from services.router.peers import Peers
from services.router.skills import Skills

__all__ = ["LIST_PATIENCE", "NEWS", "News"]

NEWS: Final = (SkillInstalled, SkillRetired, SkillRejected)
"""What the journal tells of skills."""

LIST_PATIENCE: Final = 5.0
"""Seconds after the start for which a request that could do without skills waits for the manager's
list; one that names a skill waits for it until its deadline."""

SERVING: Final = ("installed", "kept")


class News:
    """Keeps the skills as the fleet says they are.

    `described` is called with a card that is to be routed by meaning, and waits for nothing.
    """

    def __init__(
        self,
        skills: Skills,
        peers: Peers,
        hearing: Hearing,
        log: Any,
        described: Callable[[SkillCard], None],
    ) -> None:
        self._skills = skills
        self._peers = peers
        self._hearing = hearing
        self._log = log
        self._described = described
        self._parts: dict[str, set[int]] = {}
        self._retired: set[str] = set()
        self._started = time.monotonic()
        self.listed = asyncio.Event()
        """Set once it is known which skills there are."""

    async def until_listed(self, route: str) -> None:
        """Nobody is told that a skill is unknown before it is known which there are."""
        if route == "named":
            await self.listed.wait()
            return
        left = self._started + LIST_PATIENCE - time.monotonic()
        if not self.listed.is_set() and left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.listed.wait()

    async def ask(self, send: Callable[[], Awaitable[None]]) -> None:
        """Ask for the list by `send`, again and again until it has come."""
        pause = 0.25
        while not self.listed.is_set():
            await send()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.listed.wait()
            pause = min(pause * 2, 4.0)

    async def list(self, event: Event[SkillListed]) -> None:
        """Take in a part of the manager's list."""
        for listed in event.data.cards:
            if listed.state in SERVING:
                # A list may be older than what the journal has told meanwhile.
                if listed.digest not in self._retired and (
                    listed.digest not in self._skills.directory
                ):
                    self._install(listed, listed.peer)
            elif listed.digest in self._skills.directory:
                self._skills.retire(listed.digest)
        if not self.listed.is_set():
            heard = self._parts.setdefault(event.correlation_id or "", set())
            heard.add(event.data.part)
            if len(heard) >= event.data.parts:
                self.listed.set()
                self._parts.clear()

    async def skill(self, event: Event[Any]) -> None:
        """Take in one of `NEWS`."""
        try:
            self._take_in(event)
        finally:
            self._hearing.heard(event.sequence)

    async def peer(self, event: Event[Any]) -> None:
        """Take in what is told of peers and their skills."""
        data = event.data
        if isinstance(data, SkillDiscovered):
            if data.card.digest not in self._retired:  # it would be rejected again
                self._skills.offer(data.card, data.peer)
        elif isinstance(data, PeerLeft):
            self._skills.withdraw(data.peer)
        else:
            self._peers.unavailable(data.digest)

    def _take_in(self, event: Event[Any]) -> None:
        if isinstance(event.data, SkillInstalled):
            self._install(event.data.card, event.data.peer)
        elif isinstance(event.data, SkillRejected):
            self._peers.unavailable(event.data.digest)
        else:
            self._retired.add(event.data.digest)
            self._skills.retire(event.data.digest)
            self._say_of("skill retired", event.data)

    def _install(self, card: SkillCard, peer: str | None) -> None:
        if self._skills.install(card, peer):
            self._described(card)
        self._peers.installed(card.digest)
        self._say_of("skill routed", card)

    def _say_of(self, what: str, card: SkillCard | SkillRetired) -> None:
        self._log.info(what, skill=card.name, version=card.version, digest=card.digest)
