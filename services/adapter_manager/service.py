"""The adapter manager: judges every card that is published, fetched or to be retired."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, ClassVar, Final

import msgspec

from bus import BusError, Delivery
from lora.errors import CardNotFoundError, LoRAError, ModelError, StoreError, StoreRefusedError
from lora.model import find_model
from schemas import (
    AdapterFailed,
    AdapterLoad,
    AdapterLoaded,
    AdapterUnload,
    Event,
    FleetHeartbeat,
    ListedCard,
    Payload,
    SkillCard,
    SkillFetched,
    SkillInstalled,
    SkillListed,
    SkillListRequested,
    SkillPin,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    SkillRetired,
    address_of,
    now,
)
from services.adapter_manager import versions
from services.adapter_manager.errors import ManagerError, Rejected
from services.adapter_manager.ledger import Ledger, Record
from services.adapter_manager.loading import Loader, Verdict
from services.adapter_manager.verification import verified
from services.adapter_manager.versions import SERVING, Version
from services.runtime.service import Context, Service
from services.runtime.shared import card_store
from services.runtime.tracing import span, under

__all__ = ["AdapterManagerService"]

VISIBILITY: Final = 60.0
"""Seconds for which a delivery is the manager's; longer than it ever waits for an encoder."""

RETRY: Final = 1.0
"""Seconds until a card is tried again that no encoder was there to load."""

AWAY: Final = 5.0
"""Seconds until a card is looked for again in a store that was away."""

GRACE: Final = 60.0
"""Seconds for which the file of a surplus version stays: requests under way may need it."""

WARM: Final = 64
"""Installed cards that an encoder which has just started is told to map."""

AGAIN: Final = 10.0
"""Seconds until an encoder that keeps other cards than it should is told again."""

PART: Final = 512 << 10
"""Bytes of one answer to a list request; a longer list comes in several."""

BESIDE: Final = 128
"""Bytes that a listed card has beside its description: state, peer, whether it is pinned."""


class AdapterManagerService(Service):
    """One card at a time, in the order in which they were journaled."""

    name: ClassVar[str] = "adapter_manager"
    single: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.store = card_store(self.settings.store, self.state)
        self.ledger = Ledger(self.state.of(self.name) / "cards.sqlite")
        self.loader = Loader(self.source, self._send)
        self._keep = self.settings.manager.keep_versions
        self._deleting: set[asyncio.Task[None]] = set()
        self._missing: set[str] = set()
        self._told: dict[str, float] = {}
        """When each encoder was last told what to keep; monotonic."""

    async def setup(self) -> None:
        """Learn which model the fleet serves, put table and folder in order, then listen."""
        try:
            found = await asyncio.to_thread(find_model, self.settings.fleet.model)
        except ModelError as error:
            raise ManagerError(f"the model cannot be used: {error}") from error
        self.model = found.base_model
        await self._reconcile()
        self._count()
        await self.listen((AdapterLoaded, AdapterFailed), self._heard)
        await self.listen(FleetHeartbeat, self._beat)
        await self.listen(SkillListRequested, self._list)
        await self.work(
            self.name,
            (SkillPublished, SkillFetched, SkillRetire, SkillPin),
            self._delivered,
            visibility=VISIBILITY + (2 * self.settings.store.deadline if self.store.fetches else 0),
        )

    async def aclose(self) -> None:
        """Close the table; what was to be deleted is, at the next start."""
        for task in self._deleting:
            task.cancel()
        await super().aclose()
        self.ledger.close()

    # Deliveries -------------------------------------------------------------------------------

    async def _delivered(self, delivery: Delivery) -> None:
        data = delivery.event.data
        if isinstance(data, SkillRetire):
            await self._retire(delivery, data)
        elif isinstance(data, SkillPin):
            await self._pin(delivery, data)
        else:
            peer = data.peer if isinstance(data, SkillFetched) else None
            await self._install(delivery, data.card, peer)
        self._count()

    async def _install(self, delivery: Delivery, claimed: SkillCard, peer: str | None) -> None:
        facts: dict[str, Any] = {"skill": claimed.name, "version": claimed.version}
        with span("manager install", **facts):
            await self._installed(delivery, claimed, peer)

    async def _installed(self, delivery: Delivery, claimed: SkillCard, peer: str | None) -> None:
        event = under(delivery.event)
        known = self.ledger.get(claimed.digest)
        if known is None or self._state(known) not in SERVING:
            if known is not None and known.card is not None and known.state in SERVING:
                # Its file was gone and is back: whose it is was told when it first came.
                author = known.card
                claimed = msgspec.structs.replace(
                    claimed, signer=author.signer, signature=author.signature
                )
                peer = known.peer
            try:
                card = await self._judged(claimed, peer)
                outcome = await self.loader.load(event, card.digest)
                if outcome.verdict is Verdict.NOBODY:
                    self.log.info("no encoder to load the card yet", skill=card.name)
                    await delivery.defer(now() + timedelta(seconds=RETRY))
                    return
                if outcome.verdict is Verdict.FAILED:
                    raise Rejected(outcome.message)
            except StoreError as error:
                self.log.warning("card not to be had yet", skill=claimed.name, why=str(error))
                await delivery.defer(now() + timedelta(seconds=AWAY))
                return
            except Rejected as error:
                await self._reject(delivery, claimed, str(error), peer)
                return
            self._enter(card, event, peer)
        # Told from the table alone: a delivery that is repeated after a crash tells the same.
        record = self.ledger.get(claimed.digest)
        told: list[Event[Any]] = []
        if record is not None and record.card is not None and record.state in SERVING:
            installed = SkillInstalled(card=record.card, peer=record.peer)
            told.append(event.derive(installed, source=self.source))
        told += self._retirements(event)
        await delivery.ack(publish=told)
        facts = {"skill": claimed.name, "version": claimed.version, "digest": claimed.digest}
        self.log.info("skill installed", **facts)
        await self._hint(AdapterLoad(digest=claimed.digest))
        await self._let_go(event)

    async def _judged(self, claimed: SkillCard, peer: str | None) -> SkillCard:
        """The card as its file tells it; raises `Rejected`."""
        others = [record.among for record in self._fitting(claimed.name, claimed.signer)]
        # Digests of other models are judged too: what was retired stays retired in any case.
        known = self.ledger.get(claimed.digest)
        if known is not None and known.state == "retired":
            others.append(known.among)
        reason = versions.refusal(others, claimed.digest, claimed.version, self._keep)
        if reason is not None:
            raise Rejected(reason)
        if peer is not None and claimed.signer is None:
            raise Rejected(f"it came from the peer {peer!r} and does not say who signed it")
        return await asyncio.to_thread(verified, self.store, claimed, self.model)

    def _enter(self, card: SkillCard, event: Event[Any], peer: str | None) -> None:
        """Install a card that an encoder has loaded; what is surplus by that is retired."""
        self._missing.discard(card.digest)
        with self.ledger.together():
            self.ledger.put(card, "installed", cause=_cause(event), peer=peer)
            among = [record.among for record in self._fitting(card.name, card.signer)]
            for other in versions.surplus(among, self._keep):
                self._retire_in_ledger(card.name, other, self._surplus_reason(), event)
            self._rank(card.name, card.signer)

    async def _reject(
        self, delivery: Delivery, card: SkillCard, reason: str, peer: str | None
    ) -> None:
        known = self.ledger.get(card.digest)
        useless: set[str] = set()
        if known is None or known.state in ("pending", "rejected"):
            cause = _cause(delivery.event)
            with self.ledger.together():
                self.ledger.put(card, "rejected", reason=reason, cause=cause, peer=peer)
                useless |= set(self.ledger.forget_rejected())
            if peer is not None:  # what peers send that is of no use takes no room
                useless.add(card.digest)
        rejected = SkillRejected(name=card.name, digest=card.digest, reason=reason)
        await delivery.ack(publish=[delivery.event.derive(rejected, source=self.source)])
        for digest in useless:
            await self._delete(digest)
        facts = {"skill": card.name, "version": card.version, "digest": card.digest}
        self.log.warning("skill rejected", why=reason, **facts)

    async def _retire(self, delivery: Delivery, data: SkillRetire) -> None:
        event = delivery.event
        known = self.ledger.get(data.digest)
        if known is None or known.cause != _cause(event):
            with self.ledger.together():
                # The table's own name and version, where it has them: the digest is what counts.
                name = data.name if known is None else known.name
                number = data.version if known is None else known.version
                self._retire_in_ledger(
                    name, Version(data.digest, number, "retired"), data.reason, event
                )
                self._rank(name, None if known is None else known.signer)
        await delivery.ack(publish=self._retirements(event))
        facts = {"skill": data.name, "version": data.version, "digest": data.digest}
        self.log.info("skill retired", why=data.reason, **facts)
        await self._let_go(event)

    async def _pin(self, delivery: Delivery, data: SkillPin) -> None:
        changed = self.ledger.pin(data.digest, data.pinned)
        pinned = data.digest in self.ledger.pinned()
        await delivery.ack()
        if data.pinned and not pinned:
            self.log.warning("not pinned: no such version serves", skill=data.name)
            return
        if not changed and not data.pinned:
            return
        self.log.info("skill pinned" if pinned else "skill unpinned", skill=data.name)
        if not pinned:
            await self._hint(AdapterLoad(digest=data.digest, pin=False))
        for worker in self.loader.alive():  # what there was no room for may fit now
            await self._tell_pins(worker)

    def _retirements(self, event: Event[Any]) -> list[Event[Any]]:
        """`skill.retired` for every card that this event took out of service."""
        told = []
        for record in self.ledger.caused_by(_cause(event)):
            if record.state != "retired":
                continue
            others = [other.among for other in self._fitting(record.name, record.signer)]
            retired = SkillRetired(
                name=record.name,
                version=record.version,
                digest=record.digest,
                reason=record.reason,
                successor=versions.successor(others, record.digest),
            )
            # One event may retire several: their versions tell their ids apart.
            told.append(event.derive(retired, source=self.source, ordinal=record.version))
        return told

    def _retire_in_ledger(
        self, name: str, version: Version, reason: str, event: Event[Any]
    ) -> None:
        self.ledger.retire(
            version.digest, name, version.version, reason=reason, cause=_cause(event)
        )

    def _surplus_reason(self) -> str:
        return f"only the last {self._keep} versions are kept"

    def _rank(self, name: str, signer: str | None) -> None:
        self.ledger.rank(versions.ranked(record.among for record in self._fitting(name, signer)))

    def _fits(self, record: Record) -> bool:
        """Whether it was made for the model that the fleet serves today."""
        return record.card is None or record.card.base_model.sha256 == self.model.sha256

    def _fitting(self, name: str, signer: str | None) -> list[Record]:
        return [record for record in self.ledger.of(name, signer) if self._fits(record)]

    # Store ------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        """Delete what nothing needs, and say what is missing.

        A store that is away now keeps nothing from serving that is on this machine.
        """
        try:
            here = set(await asyncio.to_thread(self.store.digests))
        except StoreRefusedError as error:
            raise ManagerError(f"the card store cannot be used: {error}") from error
        except StoreError as error:
            self.log.error("the card store was not looked through", why=str(error))
            return
        for digest, state in self.ledger.states():
            if digest not in here and state in SERVING and not await self._shared(digest):
                self._missing.add(digest)
                record = self.ledger.get(digest)
                self.log.error(
                    "the file of an installed skill is gone; it serves again when it is back",
                    skill=None if record is None else record.name,
                    version=None if record is None else record.version,
                    digest=digest,
                )
            elif digest in here and (state == "rejected" or self._outlived(digest, state)):
                await self._delete(digest)

    async def _shared(self, digest: str) -> bool:
        """Whether a card that the store lacks lay in the folder, and now is in the store too."""
        try:
            await asyncio.to_thread(self.store.share, digest)
        except CardNotFoundError:
            return False
        except StoreError as error:
            self.log.error("a card of this machine is not in the card store", why=str(error))
        return True

    def _outlived(self, digest: str, state: str) -> bool:
        record = self.ledger.get(digest) if state == "retired" else None
        return record is not None and self._disposable(record)

    def _disposable(self, record: Record) -> bool:
        """Whether a retired card lies below all versions that are kept: nobody compares with it."""
        others = self._fitting(record.name, record.signer)
        serving = [other.version for other in others if other.state in SERVING]
        newest = sorted(serving, reverse=True)[: self._keep]
        return (
            record.state == "retired" and len(newest) >= self._keep and record.version < min(newest)
        )

    async def _delete(self, digest: str) -> None:
        try:
            await asyncio.to_thread(self.store.delete, digest)
        except (OSError, LoRAError) as error:
            self.log.warning("card not deleted", digest=digest, why=str(error))

    async def _let_go(self, event: Event[Any]) -> None:
        """Have the encoders put back what this event retired; delete the files that are surplus."""
        for record in self.ledger.caused_by(_cause(event)):
            if record.state == "retired":
                await self._hint(AdapterUnload(digest=record.digest))
                if self._disposable(record):
                    task = asyncio.create_task(self._delete_later(record.digest))
                    self._deleting.add(task)
                    task.add_done_callback(self._deleting.discard)

    async def _delete_later(self, digest: str) -> None:
        await asyncio.sleep(GRACE)
        await self._delete(digest)

    # Encoders ---------------------------------------------------------------------------------

    async def _heard(self, event: Event[Any]) -> None:
        self.loader.heard(event)

    async def _beat(self, event: Event[FleetHeartbeat]) -> None:
        fresh = self.loader.beat(event)
        if fresh is None:
            await self._check_pins(event)
            return
        installed = (r for r in self.ledger.installed() if self._state(r) == "installed")
        warm = [record.digest for record in islice(installed, WARM)]
        await self._tell_pins(fresh)
        for digest in warm:
            await self._send(self.event(AdapterLoad(digest=digest), to=fresh))

    async def _tell_pins(self, worker: str) -> None:
        self._told[worker] = time.monotonic()
        for digest in self.ledger.pinned():
            await self._send(self.event(AdapterLoad(digest=digest, pin=True), to=worker))

    async def _check_pins(self, beat: Event[FleetHeartbeat]) -> None:
        """Tell them again to an encoder that says otherwise: hints may be lost."""
        worker, said = address_of(beat.source), beat.data.counters
        if beat.data.service != "encoder" or worker not in self.loader.alive():
            return
        known = said.get("pinned", 0) + said.get("pins_refused", 0)
        pinned = self.ledger.pinned()
        if known == len(pinned) or time.monotonic() - self._told.get(worker, 0.0) < AGAIN:
            return
        if said.get("pinned", 0):  # one that was unpinned may be among them
            for record in self.ledger.serving():
                if record.digest not in pinned:
                    unpin = AdapterLoad(digest=record.digest, pin=False)
                    await self._send(self.event(unpin, to=worker))
        await self._tell_pins(worker)

    async def _hint(self, data: Payload) -> None:
        for worker in self.loader.alive():
            await self._send(self.event(data, to=worker))

    async def _send(self, event: Event[Any]) -> None:
        with contextlib.suppress(BusError):  # hints: an encoder also finds a card by itself
            await self.bus.publish(event)

    # Lists ------------------------------------------------------------------------------------

    async def _list(self, event: Event[SkillListRequested]) -> None:
        parts = self.parts()
        pinned = frozenset(self.ledger.pinned())
        for ordinal, digests in enumerate(parts):
            cards = tuple(self._listed(digests, pinned))
            listed = event.derive(
                SkillListed(cards=cards, part=ordinal, parts=len(parts)),
                source=self.source,
                ordinal=ordinal,
                to=event.data.reply_to,
            )
            await self.bus.publish(msgspec.structs.replace(listed, correlation_id=event.id))
            await asyncio.sleep(0)  # thousands of cards are many parts: others may speak in between

    def parts(self) -> tuple[tuple[str, ...], ...]:
        """Digests of the cards of each part of the list."""
        return tuple(_parts(self.ledger.listed()))

    def listed(self) -> list[ListedCard]:
        """All parts of the list: what is in service first, of what is not the newest."""
        pinned = frozenset(self.ledger.pinned())
        return [card for digests in self.parts() for card in self._listed(digests, pinned)]

    def _listed(self, digests: Iterable[str], pinned: frozenset[str]) -> Iterator[ListedCard]:
        """The cards with their state as it is now; only those that serve say what to route."""
        for digest in digests:
            record = self.ledger.get(digest)
            if record is None or record.card is None:
                continue
            fields = msgspec.structs.asdict(record.card)
            state = self._state(record)
            if state not in SERVING:
                fields |= {"prototypes": "", "boundary": ""}
            kept = digest in pinned
            yield ListedCard(**fields, state=state, peer=record.peer, pinned=kept)

    def _state(self, record: Record) -> str:
        """As others should see it: a card that cannot be served now is pending."""
        if record.state in SERVING and (not self._fits(record) or record.digest in self._missing):
            return "pending"
        return record.state

    def _count(self) -> None:
        counts = self.ledger.counts()
        states = ("installed", "kept", "retired", "rejected")
        self.counters = {state: counts.get(state, 0) for state in states}
        self.counters["pinned"] = len(self.ledger.pinned())


def _cause(event: Event[Any]) -> str:
    # An id is unique only within its source.
    return f"{event.source} {event.id}"


def _parts(cards: Iterable[tuple[str, int]]) -> Iterator[tuple[str, ...]]:
    """Digests in parts whose cards an event can carry; one empty part where there is nothing."""
    part: list[str] = []
    size = 0
    for digest, length in cards:
        if part and size + length + BESIDE > PART:
            yield tuple(part)
            part, size = [], 0
        part.append(digest)
        size += length + BESIDE
    yield tuple(part)
