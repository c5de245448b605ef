"""Skills that only a peer has."""

import asyncio

import msgspec
import numpy as np
import pytest

from lora.card import LoRACard
from schemas import (
    Event,
    PeerLeft,
    SkillDiscovered,
    SkillFetched,
    SkillInstalled,
    SkillUnavailable,
    SkillWanted,
)
from services.runtime.cards import describe
from tests.services.encoder.processes import applied, settings, skill, until
from tests.services.router.fleet import Fleet, base, reasons, refused, routed

pytestmark = pytest.mark.timeout(120)

AUTHOR = "ed25519:" + "A" * 43


class Peer:
    """A federation process that offers one card of another node's."""

    def __init__(self, fleet: Fleet, card: LoRACard) -> None:
        self.fleet = fleet
        self.card = fleet.store.put(card)
        self.told = msgspec.structs.replace(describe(self.card), signer=AUTHOR, signature="S")

    async def offer(self) -> None:
        self.bus = await self.fleet.bus("/federation/1")
        self.wants = await self.fleet.ear(SkillWanted)
        data = SkillDiscovered(card=self.told, peer="london")
        await self.bus.publish(Event(data=data, source="/federation/1"))
        directory = self.fleet.router.skills.directory
        await until(lambda: bool(directory.offered()), "the offer")

    async def deliver(self) -> None:
        await self.wants.first(SkillWanted)
        data = SkillFetched(card=self.told, peer="london")
        await self.bus.publish(Event(data=data, source="/federation/1"))


async def test_a_peers_skill_is_wished_for_awaited_and_used(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 20.0}))
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()
    assert (await refused(client, ["x"], skills=["banking"])).code == "unknown_skill"

    waiting = asyncio.create_task(client.encode([about, "the weather"]))
    await peer.deliver()

    assert applied((await waiting).rows) == [("banking",), ()]
    wanted = peer.wants.events[0].data
    assert (wanted.digest, wanted.name, wanted.peer) == (peer.card.key, "banking", "london")
    assert applied((await client.encode(["x"], skills=["london/banking"])).rows) == [("banking",)]
    assert len(peer.wants.events) == 1


async def test_a_peers_skill_that_does_not_come_is_said_so(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 0.2}))
    about = "I have lost my bank card"
    await fleet.teach(skill("law"))
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()

    answer = await client.encode([about, "the weather"])
    assert reasons(answer) == ["peer_timeout", "below_threshold"]
    np.testing.assert_allclose(answer.vectors[:1], base(about), atol=1e-5)

    assert reasons(await client.encode([about])) == ["peer_timeout"]
    assert len(peer.wants.events) == 1, "not wished for again so soon"

    answer = await client.encode([about], skills=["law", "london/banking"])
    assert applied(answer.rows) == [("law",)]
    assert reasons(answer) == ["peer_timeout"], "one of the two is missing"
    assert len(peer.wants.events) == 2, "named: wished for again"


async def test_unavailable_ends_the_wait(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 60.0}))
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode([about], skills=["london/banking"]))
    await peer.wants.first(SkillWanted)
    data = SkillUnavailable(digest=peer.card.key, name="banking", peer="london", reason="gone")
    await peer.bus.publish(Event(data=data, source="/federation/1"))
    assert reasons(await waiting) == ["peer_timeout"]


async def test_a_local_version_hides_a_peers(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about, version=7))
    await peer.offer()
    await fleet.teach(routed("banking", about, version=2, seed=4))
    answer = await (await fleet.client()).encode([about])
    assert answer.rows[0].skills[0].version == 2
    assert not peer.wants.events


async def test_installed_is_told_before_a_request_may_name_it(fleet: Fleet) -> None:
    """Nobody has to sleep: what was told is there for who asks after that."""
    await fleet.up(workers=1)
    ear = await fleet.ear(SkillInstalled)
    await fleet.publish(skill("law"))
    await ear.first(SkillInstalled)
    client = await fleet.client()
    assert applied((await client.encode(["x"], skills=["law"])).rows) == [("law",)]


async def test_a_peers_card_that_is_rejected_ends_the_wait(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 60.0}))
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    fleet.store.delete(peer.card.key)
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode([about]))
    await peer.deliver()
    assert reasons(await waiting) == ["peer_timeout"]


async def test_what_a_peer_offered_goes_with_it(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    data = PeerLeft(peer="london", endpoint="grpc://london:1")
    await peer.bus.publish(Event(data=data, source="/federation/1"))
    await until(lambda: not fleet.router.skills.directory.offered(), "the peer's leave")
    client = await fleet.client()
    assert reasons(await client.encode([about])) == ["no_skills"]
    assert (await refused(client, ["x"], skills=["london/banking"])).code == "unknown_skill"
