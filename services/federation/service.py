"""The federation gateway: serves this node's cards to peers, and brings theirs when wanted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar, Final

from bus import BusError
from lora.errors import ModelError, StoreError
from lora.model import find_model
from schemas import (
    Event,
    FleetHeartbeat,
    Payload,
    PeerJoined,
    PeerLeft,
    SkillCard,
    SkillDiscovered,
    SkillFetched,
    SkillInstalled,
    SkillListed,
    SkillListRequested,
    SkillRejected,
    SkillRetired,
    SkillUnavailable,
    SkillWanted,
)
from services.federation.errors import CardRefused, FederationError
from services.federation.fetching import Fetching
from services.federation.gateway import Gateway
from services.federation.installed import Installed
from services.federation.offers import Offers, Refusal
from services.runtime.service import Context, Service
from services.runtime.shared import card_store

__all__ = ["FederationService"]

RETRY: Final = 30.0
"""Seconds until a node tries again to federate whose keys, port or certificates forbade it."""

CALM: Final = 1.0
"""Seconds at least between two repetitions of all offers."""

LISTED: Final = 10.0
"""Seconds for which offers wait until the manager has told what is here already."""


class FederationService(Service):
    """One gateway a node. Where it cannot federate it says why and tries again: the fleet serves
    on without it."""

    name: ClassVar[str] = "federation"
    single: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        own = self.settings.federation
        self.store = card_store(self.settings.store, self.state, max_bytes=own.max_card_bytes)
        self.counters = dict.fromkeys(
            (
                "federating",
                "port",
                "peers",
                "offers",
                "serving",
                "fetched",
                "refused",
                "unavailable",
            ),
            0,
        )
        self._model = ""
        self._gateway: Gateway | None = None
        self._installed: Installed | None = None
        self._offers: Offers | None = None
        self._trusted: tuple[Any, ...] = ()
        self._fetching: Fetching | None = None
        self._repeat_now = asyncio.Event()
        self._told_what_is_here = asyncio.Event()
        self._manager: int | None = None

    @property
    def queue(self) -> int:
        """Cards that are being fetched."""
        return 0 if self._fetching is None else len(self._fetching)

    async def setup(self) -> None:
        """Learn which model the fleet serves, join the federation, then listen."""
        try:
            found = await asyncio.to_thread(find_model, self.settings.fleet.model)
        except ModelError as error:
            raise FederationError(f"the model cannot be used: {error}") from error
        self._model = found.base_model.sha256
        await self._join()
        heads = await self.bus.heads()
        kinds = (SkillInstalled, SkillRetired)
        await self.listen(SkillListed, self._listed, to=self.address)
        # What was installed before now the manager lists; what is after, the journal tells.
        head = max((heads.get(kind.type, 0) for kind in kinds), default=0)
        await self.listen(kinds, self._skill, after=head)
        await self.listen(SkillRejected, self._rejected)
        await self.listen(FleetHeartbeat, self._beat)
        await self.listen(SkillListRequested, self._list_requested)
        await self.listen(SkillWanted, self._wanted)
        await self.say(SkillListRequested(reply_to=self.address))
        self.spawn(self._repeat(), "repeat")

    async def drain(self) -> None:
        """Finish the transfers under way."""
        if self._fetching is not None:
            await self._fetching.drain()

    async def aclose(self) -> None:
        """Leave the federation: peers hear a goodbye."""
        if self._fetching is not None:
            await self._fetching.aclose()
        if self._gateway is not None:
            await self._gateway.aclose()
        await super().aclose()

    async def _join(self) -> None:
        try:
            gateway = await asyncio.to_thread(
                Gateway,
                self.settings.federation,
                keys=self.state.keys,
                store=self.store,
                incoming=self.state.of(self.name) / "incoming",
                model=self._model,
                heard=self,
                log=self.log,
            )
        except (FederationError, OSError) as error:
            self.log.error("this node does not federate now", why=str(error), again_in=RETRY)
            self.spawn(self._join_later(), "join")
            return
        self._gateway = gateway
        self._installed = Installed(gateway.catalogue, self.store, gateway.key, self.log)
        self._offers = Offers(gateway.client.refusal)
        self._fetching = Fetching(
            gateway, self._installed, self._offers, self.settings.federation, self, self.log
        )
        self.counters["federating"] = 1
        self.counters["port"] = gateway.server.port
        await gateway.open()

    async def _join_later(self) -> None:
        await asyncio.sleep(RETRY)
        await self._join()
        await self._tell(SkillListRequested(reply_to=self.address))

    # What is installed here ---------------------------------------------------------------------

    async def _beat(self, event: Event[FleetHeartbeat]) -> None:
        data = event.data
        if data.service == "adapter_manager" and data.state == "starting":
            # Another process, under the same number too, which it has in every life of a container.
            if self._manager is not None:
                self._manager = 0
        elif data.service == "adapter_manager" and data.state == "ready":
            if self._manager not in (None, data.pid):
                await self._tell(SkillListRequested(reply_to=self.address))
            self._manager = data.pid

    async def _listed(self, event: Event[SkillListed]) -> None:
        if self._installed is not None:
            self._installed.listed(event.data.cards)
            self._count()
            if event.data.part + 1 >= event.data.parts:
                self._told_what_is_here.set()

    async def _skill(self, event: Event[Any]) -> None:
        if self._installed is None or self._fetching is None:
            return
        if isinstance(event.data, SkillInstalled):
            self._installed.install(event.data.card)
            self._fetching.judged(event.data.card.digest)
        else:
            self._installed.retire(event.data.digest)
            self._fetching.judged(event.data.digest)
        self._count()

    async def _rejected(self, event: Event[SkillRejected]) -> None:
        if event.source == self.source or self._installed is None or self._fetching is None:
            return
        self._installed.reject(event.data.digest, event.data.reason)
        self._fetching.judged(event.data.digest)

    # What peers offer -----------------------------------------------------------------------------

    async def joined(self, peer: str, endpoint: str) -> None:
        """A peer answers for the first time."""
        await self._tell(PeerJoined(peer=peer, endpoint=endpoint))
        self._count()

    async def left(self, peer: str, endpoint: str) -> None:
        """It answers no more, and what it offered is not to be had from it."""
        if self._offers is not None:
            self._offers.remove(peer)
        await self._tell(PeerLeft(peer=peer, endpoint=endpoint))
        self._count()

    async def offers(self, peer: str, cards: tuple[SkillCard, ...]) -> None:
        """What a peer offers now."""
        if self._offers is None:
            return
        verdict = await asyncio.to_thread(self._offers.judge, peer, cards)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTED):
                await self._told_what_is_here.wait()
        await self._refuse(self._offers.heed(verdict))
        await self._offer(self._offers.by(peer))

    async def _refuse(self, refusals: tuple[Refusal, ...]) -> None:
        for peer, card, error in refusals:
            if self._offers is None or not self._offers.of(card.digest):
                await self.refused(card, peer, error)
            else:  # another peer's is believed, and may be on its way
                self.log.warning("offer refused", peer=peer, skill=card.name, why=str(error))

    async def refused(self, card: SkillCard, peer: str, error: CardRefused) -> None:
        """A card that is not believed, when it was offered or when it came."""
        self.counters["refused"] += 1
        self.log.warning("card refused", peer=peer, skill=card.name, why=str(error))
        if self._installed is not None and self._installed.has(card.digest):
            return  # of a card that serves here nobody else's copy says anything
        reason = f"offered by {peer}: {error}"
        await self._tell(SkillRejected(name=card.name, digest=card.digest, reason=reason))

    async def _offer(self, offers: tuple[tuple[str, SkillCard], ...]) -> None:
        for peer, card in offers:
            await self._tell(SkillDiscovered(card=card, peer=peer))
        if self._fetching is not None:
            self._fetching.ahead()
        self._count()

    async def _repeat(self) -> None:
        """Tell all offers again and again, for whoever starts later."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.federation.repeat):
                    await self._repeat_now.wait()
            self._repeat_now.clear()
            try:
                await self._all_again()
            except Exception:
                self.log.exception("offers not repeated")
            await asyncio.sleep(CALM)

    async def _all_again(self) -> None:
        if self._offers is None or self._gateway is None:
            return
        trusted = await asyncio.to_thread(self._gateway.trust.entries)
        if trusted != self._trusted:
            self._trusted = trusted
            for peer, cards in self._offers.claimed():
                verdict = await asyncio.to_thread(self._offers.judge, peer, cards)
                await self._refuse(self._offers.heed_again(verdict))
        await self._offer(self._offers.all())

    async def _list_requested(self, event: Event[SkillListRequested]) -> None:
        if event.data.reply_to != self.address:
            self._repeat_now.set()  # somebody builds an index

    # What is wanted -------------------------------------------------------------------------------

    async def _wanted(self, event: Event[SkillWanted]) -> None:
        data = event.data
        rejection = None if self._installed is None else self._installed.rejection(data.digest)
        if rejection is not None:
            await self.unavailable(data, f"it was rejected here: {rejection}", event)
            return
        offers = () if self._offers is None else self._offers.of(data.digest)
        if not offers or self._fetching is None:
            await self.unavailable(data, "no peer offers it now", event)
            return
        named = [offer for offer in offers if offer[0] == data.peer]
        peer, card = (named or list(offers))[0]
        self._fetching.bring(card, peer, event)

    async def fetched(self, card: SkillCard, peer: str, cause: Event[SkillWanted] | None) -> None:
        """A card is in the folder: it comes into the store, and the manager judges it."""
        try:
            await asyncio.to_thread(self.store.share, card.digest)
        except StoreError as error:  # a manager on this machine finds it all the same
            self.log.warning("a card is not in the card store yet", skill=card.name, why=str(error))
        self.counters["fetched"] += 1
        await self._tell(SkillFetched(card=card, peer=peer), cause)

    async def unavailable(
        self, data: SkillWanted, reason: str, cause: Event[SkillWanted] | None
    ) -> None:
        """A card could not be had."""
        self.counters["unavailable"] += 1
        self.log.warning("skill not to be had", skill=data.name, peer=data.peer, why=reason)
        gone = SkillUnavailable(digest=data.digest, name=data.name, peer=data.peer, reason=reason)
        await self._tell(gone, cause)

    async def _tell(self, data: Payload, cause: Event[Any] | None = None) -> None:
        event = self.event(data) if cause is None else cause.derive(data, source=self.source)
        try:
            await self.bus.publish(event)
        except BusError as error:  # whoever waits for it asks again
            self.log.warning("not told", type=event.type, why=str(error))
        except Exception:  # what a peer made up may be beyond what can be written
            self.log.exception("not told", type=event.type)

    def _count(self) -> None:
        if self._gateway is not None and self._offers is not None:
            self.counters["peers"] = len(self._gateway.peers.here)
            self.counters["offers"] = len(self._offers.all())
            self.counters["serving"] = len(self._gateway.catalogue.offers())
