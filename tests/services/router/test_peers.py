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
from services.router.service import RouterService
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


async def test_a_peers_skill_stays_when_the_peer_is_gone_and_the_router_starts_anew(
    fleet: Fleet,
) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 20.0}))
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode([about]))
    await peer.deliver()
    assert applied((await waiting).rows) == [("banking",)]
    data = PeerLeft(peer="london", endpoint="grpc://london:1")
    await peer.bus.publish(Event(data=data, source="/federation/1"))
    await until(lambda: not fleet.router.skills.directory.offers.by_peer("london"), "its leave")

    for restarted in (False, True):
        if restarted:
            await fleet.kill(fleet.router)
            fleet.router = await fleet.start(RouterService)
        assert applied((await client.encode([about])).rows) == [("banking",)]
        for name in ("banking", "london/banking", "london/banking@1"):
            assert applied((await client.encode(["x"], skills=[name])).rows) == [("banking",)]
        assert (await refused(client, ["x"], skills=["rome/banking"])).code == "unknown_skill"


async def test_this_nodes_own_skill_answers_at_once_whatever_a_peer_claims(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 60.0}))
    about = "I have lost my bank card"
    await fleet.teach(routed("banking", about))
    peer = Peer(fleet, routed("greedy", about, seed=3))
    await peer.offer()
    client = await fleet.client()
    assert applied((await client.encode([about, "my card is lost"])).rows) == [("banking",)] * 2
    assert not peer.wants.events


async def test_this_nodes_own_skill_answers_where_a_nearer_one_does_not_come(
    fleet: Fleet,
) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 0.2}))
    own, theirs = "I have lost my bank card", "My library card is lost"
    await fleet.teach(skill("banking", prototypes=base(own), threshold=0.3))
    peer = Peer(fleet, routed("library", theirs, seed=3))
    await peer.offer()
    client = await fleet.client()
    for _ in range(2):
        answer = await client.encode([theirs])
        assert applied(answer.rows) == [("banking",)]
        assert len(peer.wants.events) == 1, "it is not waited for again"


async def test_an_older_version_answers_where_the_newer_does_not_come(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 20.0}))
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode(["x"], skills=["london/banking"]))
    await peer.deliver()
    assert applied((await waiting).rows) == [("banking",)]

    newer = Peer(fleet, routed("banking", about, version=2, seed=4))
    await newer.offer()
    for name, used in (("london/banking", [("banking",)]), ("london/banking@2", [()])):
        waiting = asyncio.create_task(client.encode(["x"], skills=[name]))
        await newer.wants.first(SkillWanted, 1 + bool(len(newer.wants.events)))
        gone = SkillUnavailable(digest=newer.card.key, name="banking", peer="london")
        await newer.bus.publish(Event(data=gone, source="/federation/1"))
        answer = await waiting
        assert applied(answer.rows) == used
        assert reasons(answer) == ["peer_timeout"]
    assert applied((await client.encode([about])).rows) == [("banking",)], "version 1 is routed to"


async def test_an_offer_that_is_not_repeated_is_over(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.router.service.SLACK", 0.0)
    await fleet.up(workers=1, settings=settings(federation={"repeat": 0.2}))
    peer = Peer(fleet, routed("banking", "I have lost my bank card"))
    await peer.offer()
    client = await fleet.client()
    await until(lambda: not fleet.router.skills.directory.offered(), "the end of the offer")
    assert reasons(await client.encode(["I have lost my bank card"])) == ["no_skills"]
