"""Brings cards: those that a request waits for, and those that the policy has fetched ahead."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from schemas import Event, SkillCard, SkillWanted
from services.federation.client import Fetched
from services.federation.errors import CardRefused, FederationError, PeerBusy
from services.federation.gateway import Gateway
from services.federation.installed import Installed
from services.federation.offers import Offers
from services.runtime.settings import FederationSettings

__all__ = ["Fetching", "Told"]

PAUSE: Final = 300.0
"""Seconds until a card is fetched again by policy alone that could not be had."""

PATIENCE: Final = 30.0
"""Seconds for which a card is asked for again of peers that are busy."""

Cause = Event[SkillWanted] | None
"""The wish that is answered; None where it was the policy's."""


class Told(Protocol):
    """Who is told what came of it; each of these ends the wish."""

    async def fetched(self, card: SkillCard, peer: str, cause: Cause) -> None:
        """The card is in the store, under its digest."""
        ...

    async def refused(self, card: SkillCard, peer: str, error: CardRefused) -> None:
        """It is not believed."""
        ...

    async def unavailable(self, data: SkillWanted, reason: str, cause: Cause) -> None:
        """It could not be had."""
        ...


class Fetching:
    """The transfers of one gateway, each card once; call it in the event loop."""

    def __init__(
        self,
        gateway: Gateway,
        installed: Installed,
        offers: Offers,
        settings: FederationSettings,
        told: Told,
        log: Any,
    ) -> None:
        self._gateway = gateway
        self._installed = installed
        self._offers = offers
        self._settings = settings
        self._told = told
        self._log = log
        self._threads = ThreadPoolExecutor(settings.fetches, thread_name_prefix="fetch")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ahead: set[str] = set()
        """Of these, who were wanted by policy alone."""
        self._unjudged: dict[str, int] = {}
        """Bytes of the cards that were fetched and that the manager has not judged yet."""
        self._put_off: dict[str, float] = {}
        self._leaving = False

    def __len__(self) -> int:
        return len(self._tasks)

    def bring(self, card: SkillCard, peer: str, cause: Cause) -> None:
        """Fetch a card, unless it is on its way already."""
        if card.digest not in self._tasks:
            task = asyncio.create_task(self._bring(card, peer, cause), name=f"fetch {card.name}")
            self._tasks[card.digest] = task
            task.add_done_callback(lambda _: self._ended(card.digest))

    def ahead(self) -> None:
        """Fetch what the policy wants: with half of the transfers, others are waited for."""
        most = max(1, self._settings.fetches // 2)
        now = time.monotonic()
        self._put_off = {digest: at for digest, at in self._put_off.items() if now < at}
        for peer, card in self._offers.all():
            if self._leaving or len(self._ahead) >= most:
                return
            if card.digest not in self._tasks and self._wants(card):
                self._ahead.add(card.digest)
                self.bring(card, peer, None)

    def judged(self, digest: str) -> None:
        """The manager has said what becomes of a card."""
        self._unjudged.pop(digest, None)

    def forgive(self) -> None:
        """Let the policy try again at once what could not be had."""
        self._put_off.clear()

    async def drain(self) -> None:
        """Begin nothing by policy any more, and wait for what is under way."""
        self._leaving = True
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def aclose(self) -> None:
        """Give up what is under way."""
        self._leaving = True
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _wants(self, card: SkillCard) -> bool:
        policy = self._settings.prefetch
        if policy == "none" or not self._installed.lacks(card.digest):
            return False
        if card.digest in self._put_off:
            return False
        return policy == "all" or self._installed.outdated_by(card)

    def _ended(self, digest: str) -> None:
        self._tasks.pop(digest, None)
        if digest in self._ahead:
            self._ahead.discard(digest)
            self.ahead()

    async def _bring(self, card: SkillCard, peer: str, cause: Cause) -> None:
        wanted = SkillWanted(digest=card.digest, name=card.name, peer=peer)
        self._put_off[card.digest] = time.monotonic() + PAUSE
        try:
            fetched = await self._fetched(card)
        except CardRefused as error:
            await self._told.refused(card, peer, error)
            return
        except FederationError as error:
            await self._told.unavailable(wanted, str(error), cause)
            return
        except Exception:
            self._log.exception("card not fetched", skill=card.name, peer=peer)
            await self._told.unavailable(wanted, "the gateway failed; its log says how", cause)
            return
        self._log.info(
            "skill fetched",
            skill=card.name,
            version=card.version,
            peer=peer,
            given_by=fetched.peer or "the store",
            bytes=card.bytes,
            seconds=round(fetched.seconds, 3),
        )
        # By the name of the peer that was asked it stays known, whoever was fastest to give it.
        await self._told.fetched(fetched.card, peer, cause)

    async def _fetched(self, card: SkillCard) -> Fetched:
        budget = self._settings.disk_budget
        taken = self._installed.foreign_bytes() + sum(
            size for digest, size in self._unjudged.items() if digest != card.digest
        )
        if card.signer != self._gateway.key.public and taken + card.bytes > budget:
            raise FederationError(
                f"cards of other authors take {taken} bytes, with its {card.bytes} that were "
                f"more than the {budget} of federation.disk_budget"
            )
        self._unjudged[card.digest] = card.bytes
        try:
            return await self._had(card)
        except BaseException:
            self._unjudged.pop(card.digest, None)
            raise

    async def _had(self, card: SkillCard) -> Fetched:
        """In a thread, from the fastest that has it; who is busy is asked again for a while."""
        ends, pause = time.monotonic() + PATIENCE, 0.1
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._gateway.client.fetch_skill, card.digest
                )
            except PeerBusy:
                if time.monotonic() + pause > ends:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
