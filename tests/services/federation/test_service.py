"""The gateway process on the bus: what it serves, offers, brings, refuses, and says of peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyarrow import flight

from lora.model import DEFAULT_SHA256
from schemas import (
    BaseModelRef,
    Event,
    ListedCard,
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
from services.federation import peers, trust
from services.federation import service as module
from services.federation.connection import Connection
from services.federation.identity import NodeKey
from services.federation.protocol import Endpoint
from services.federation.service import FederationService
from tests.services.encoder.processes import Ear, Processes, settings, until
from tests.services.federation.nodes import (
    AUTHOR,
    Stage,
    described,
    frames,
    noise,
    pieces,
    signed,
    staged,
)

MINILM = BaseModelRef(id="minilm", sha256=DEFAULT_SHA256)
EVERYTHING = (
    PeerJoined,
    PeerLeft,
    SkillDiscovered,
    SkillFetched,
    SkillRejected,
    SkillUnavailable,
    SkillListRequested,
)


def card_of(seed: int, name: str = "banking", version: int = 1, **fields: Any) -> SkillCard:
    """By `AUTHOR`; its file is `noise(3000, seed)`."""
    return signed(noise(3000, seed), name, version, base_model=MINILM, **fields)


class World:
    """A fleet's bus with its gateway, which knows one peer."""

    def __init__(self, root: Path, stage: Stage) -> None:
        self.stage = stage
        self.processes = Processes(root)
        self.store = self.processes.store
        self.trusted = self.processes.state.keys / "trusted"
        trust.add(self.trusted, AUTHOR.public, "author")
        self.service: FederationService
        self.ear: Ear

    async def start(self, **options: Any) -> FederationService:
        given = {
            "node": "here",
            "discovery": False,
            "peers": (f"127.0.0.1:{self.stage.port}",),
            "sync_interval": 0.05,
            "repeat": 0.1,
            "prefetch": "none",
        }
        self.ear = await self.processes.ear(*EVERYTHING)
        self.service = await self.processes.start(
            FederationService, settings=settings(federation=given | options)
        )
        return self.service

    def offer(self, seed: int, *args: Any, **fields: Any) -> SkillCard:
        return self.stage.offer(card_of(seed, *args, **fields), noise(3000, seed))

    async def say(
        self, data: Any, source: str = "/adapter_manager/1", to: str | None = None
    ) -> Any:
        bus = await self.processes.bus(source)
        event: Event[Any] = Event(data=data, source=source, to=to)
        await bus.publish(event)
        return event

    async def want(self, card: SkillCard, peer: str = "stage") -> Event[SkillWanted]:
        wanted = SkillWanted(digest=card.digest, name=card.name, peer=peer)
        event: Event[SkillWanted] = await self.say(wanted, "/router/1")
        return event

    async def discovered(self, card: SkillCard) -> None:
        def told() -> bool:
            return any(it.data.card == card for it in self.ear.of(SkillDiscovered))

        await until(told, f"{card.name} is offered")

    def fetched(self) -> list[str]:
        return [event.data.card.digest for event in self.ear.of(SkillFetched)]

    def peer(self) -> Connection:
        return Connection(Endpoint("127.0.0.1", int(self.service.counters["port"])))


@pytest.fixture(scope="module")
def server() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


@pytest.fixture
async def world(
    server: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "CALM", 0.01)
    monkeypatch.setattr(module, "LISTED", 0.0)  # there is no manager
    monkeypatch.setattr(peers, "CALM", 0.01)
    server.reset()
    world = World(tmp_path, server)
    yield world
    await world.processes.aclose()
    assert not list((world.processes.state.of("federation") / "incoming").iterdir())


async def test_a_wanted_card_is_fetched_with_its_authors_signature(world: World) -> None:
    card = world.offer(1)
    await world.start()
    joined = await world.ear.first(PeerJoined)
    assert (joined.data.peer, joined.data.endpoint) == ("stage", world.stage.endpoint.uri)
    await world.discovered(card)
    wanted = await world.want(card)
    fetched = await world.ear.first(SkillFetched)
    assert (fetched.data.card, fetched.data.peer) == (card, "stage")
    assert fetched.causation_id == wanted.id
    assert world.store.path(card.digest).read_bytes() == noise(3000, 1)


async def test_several_wishes_for_one_card_are_one_transfer(world: World) -> None:
    card = world.offer(1)
    await world.start()
    await world.discovered(card)
    for _ in range(5):
        await world.want(card)
    await world.ear.first(SkillFetched)
    assert len(world.stage.asked) == 1


async def test_offers_are_repeated_while_they_stand(world: World) -> None:
    card = world.offer(1)
    await world.start(repeat=0.2)
    await world.ear.first(SkillDiscovered, 4)
    world.stage.cards.clear()
    await until(lambda: world.service.counters["offers"] == 0, "it is on offer no more")
    told = len(world.ear.of(SkillDiscovered))
    questions = world.stage.questions
    await until(lambda: world.stage.questions > questions + 2, "time passes")
    assert len(world.ear.of(SkillDiscovered)) == told
    await world.want(card)
    gone = await world.ear.first(SkillUnavailable)
    assert "no peer offers it now" in str(gone.data.reason)


async def test_a_list_request_has_the_offers_told_at_once(world: World) -> None:
    card = world.offer(1)
    await world.start(repeat=60.0)
    await world.discovered(card)
    told = len(world.ear.of(SkillDiscovered))
    await world.say(SkillListRequested(reply_to="router-2"), "/router/2")
    await world.ear.first(SkillDiscovered, told + 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signer": NodeKey.generate().public}, "not on the trust list"),
        ({"signature": None}, "no signature"),
        ({"version": 2}, "not that of"),
        ({"signer": None, "signature": None}, "nobody signed it"),
        ({"bytes": 1 << 40}, "bytes"),
        ({"base_model": BaseModelRef(id="x", sha256="0" * 64)}, "another model"),
    ],
)
async def test_what_is_refused_is_rejected_once_with_its_reason(
    world: World, change: dict[str, Any], reason: str
) -> None:
    bad = msgspec.structs.replace(card_of(1), **change)
    world.stage.offer(bad, noise(3000, 1))
    good = world.offer(2, "other")
    await world.start(prefetch="all")
    rejected = await world.ear.first(SkillRejected)
    assert rejected.data.digest == bad.digest
    assert rejected.data.reason.startswith("offered by stage: ")
    assert reason in rejected.data.reason
    await until(lambda: good.digest in world.fetched(), "the good one comes")
    world.offer(3, "third")
    await until(lambda: len(world.fetched()) == 2, "and the next")
    assert len(world.ear.of(SkillRejected)) == 1
    assert bad.digest not in {digest for digest, _ in world.stage.asked}


async def test_of_a_card_that_serves_here_a_forged_copy_says_nothing(world: World) -> None:
    """`skill.rejected` has others forget the card of that digest."""
    mine, theirs, wanted = (card_of(seed, f"card-{seed}") for seed in range(3))
    await world.start()
    await world.ear.first(PeerJoined)
    for card in (mine, theirs):
        await world.say(SkillInstalled(card=card, peer="stage"))
    await until(lambda: world.service.counters["serving"] == 2, "they are served")
    world.stage.offer(wanted, b"")
    await world.discovered(wanted)
    world.stage.cards.clear()
    for card in (mine, theirs):
        world.stage.offer(msgspec.structs.replace(card, signature=None), b"")
    last = world.offer(9, "last", signer=None)
    world.stage.offer(msgspec.structs.replace(last, signer=None), b"")
    rejected = await world.ear.first(SkillRejected)
    assert rejected.data.digest == last.digest
    assert world.service.counters["refused"] == 3
    assert len(world.ear.of(SkillRejected)) == 1


async def test_an_edit_of_the_trust_list_counts_without_a_restart(world: World) -> None:
    trust.remove(world.trusted, AUTHOR.public)
    card = world.offer(1)
    await world.start()
    await world.ear.first(SkillRejected)
    trust.add(world.trusted, AUTHOR.public)
    await world.discovered(card)
    trust.remove(world.trusted, AUTHOR.public)
    await until(lambda: world.service.counters["offers"] == 0, "it is believed no more")
    await world.want(card)
    await world.ear.first(SkillUnavailable)
    assert world.fetched() == []


async def test_a_liar_and_a_peer_that_is_away_are_told_apart(world: World) -> None:
    false, away = world.offer(1, "false"), world.offer(2, "away")

    def file(data: bytes, start: int) -> Any:
        if data == noise(3000, 2):
            raise flight.FlightUnavailableError("nobody is here")
        return frames(pieces(data[:-1] + b"\x00" if data[-1:] != b"\x00" else data[:-1] + b"\x01"))

    world.stage.file = file
    await world.start()
    await world.discovered(away)
    wanted = await world.want(false)
    rejected = await world.ear.first(SkillRejected)
    assert (rejected.data.digest, "not those of its digest" in rejected.data.reason) == (
        false.digest,
        True,
    )
    wanted = await world.want(away)
    gone = await world.ear.first(SkillUnavailable)
    assert (gone.data.digest, gone.data.peer) == (away.digest, "stage")
    assert gone.causation_id == wanted.id
    assert not list(world.store.digests())


async def test_own_cards_are_signed_and_served_others_keep_their_author(world: World) -> None:
    await world.start()
    own, foreign = described(noise(3000, 5), "mine", base_model=MINILM), card_of(6, "theirs")
    broken = msgspec.structs.replace(own, digest=card_of(7).digest, created="yesterday\nsha256")
    old = msgspec.structs.replace(own, digest=card_of(8).digest, version=9)
    for seed, card in ((5, own), (6, foreign), (7, broken), (8, old)):
        world.store.path(card.digest).write_bytes(noise(3000, seed))
    cards = [
        ListedCard(**{name: getattr(card, name) for name in card.__struct_fields__}, state=state)
        for card, state in ((broken, "installed"), (own, "installed"), (old, "retired"))
    ]
    await world.say(SkillListed(cards=tuple(cards)), to=world.service.address)
    await world.say(SkillInstalled(card=foreign, peer="stage"))
    await until(lambda: world.service.counters["serving"] == 2, "both are served")
    peer = world.peer()
    served = {card.name: card for card in await asyncio.to_thread(peer.cards, 9)}
    assert served.keys() == {"mine", "theirs"}, "what cannot be signed and is retired is not"
    assert served["theirs"] == foreign
    key = NodeKey.load_or_create(world.processes.state.keys / "node.key")
    assert served["mine"].signer == key.public
    data = await asyncio.to_thread(
        lambda: b"".join(it.to_pybytes() for it in peer.open(own.digest, 0, 5.0))
    )
    assert data == noise(3000, 5)
    retired = SkillRetired(name="mine", version=1, digest=own.digest, reason="old")
    await world.say(retired)
    await until(lambda: world.service.counters["serving"] == 1, "it is served no more")
    await world.say(SkillListed(cards=tuple(cards)), to=world.service.address)
    await world.say(SkillInstalled(card=card_of(9, "last"), peer="stage"))
    await until(lambda: world.service.counters["serving"] == 2, "the next is")
    assert {card.name for card in await asyncio.to_thread(peer.cards, 9)} == {"theirs", "last"}
    peer.close()


async def test_all_is_fetched_where_the_policy_says_so(world: World) -> None:
    cards = [world.offer(seed, f"card-{seed}") for seed in range(8)]
    await world.start(prefetch="all", fetches=2)
    await until(lambda: set(world.fetched()) == {card.digest for card in cards}, "all of them")
    assert len(world.stage.asked) == len(cards)
    assert not world.ear.of(SkillUnavailable)


async def test_newer_versions_of_what_is_here_are_fetched_by_themselves(world: World) -> None:
    here = card_of(1, "law", 3)
    offered = [
        world.offer(2, "law", 2),
        world.offer(3, "other", 9),
        world.offer(4, "law", 4),
    ]
    await world.start(prefetch="updates")
    await world.discovered(offered[2])
    assert world.fetched() == []
    await world.say(SkillInstalled(card=here, peer="stage"))
    await until(lambda: world.fetched() == [offered[2].digest], "the newer one")
    await world.say(SkillInstalled(card=offered[2], peer="stage"))
    told = len(world.ear.of(SkillDiscovered))
    await until(lambda: len(world.ear.of(SkillDiscovered)) > told + 9, "offers are repeated")
    assert world.fetched() == [offered[2].digest]


async def test_what_the_manager_rejects_is_not_fetched_again(world: World) -> None:
    card = world.offer(1)
    await world.start(prefetch="all")
    await until(lambda: world.fetched() == [card.digest], "it comes")
    world.store.path(card.digest).unlink()
    rejected = SkillRejected(name=card.name, digest=card.digest, reason="it holds NaN")
    await world.say(rejected)
    told = len(world.ear.of(SkillDiscovered))
    await until(lambda: len(world.ear.of(SkillDiscovered)) > told + 4, "offers are repeated")
    await world.want(card)
    gone = await world.ear.first(SkillUnavailable)
    assert "it holds NaN" in str(gone.data.reason)
    assert len(world.stage.asked) == 1


async def test_cards_of_others_keep_to_the_disk_budget(world: World) -> None:
    cards = [world.offer(seed, f"card-{seed}") for seed in range(6)]
    await world.start(prefetch="all", disk_budget=10_000)  # of 3000 bytes each
    await world.ear.first(SkillUnavailable)
    told = len(world.ear.of(SkillDiscovered))
    await until(lambda: len(world.ear.of(SkillDiscovered)) > told + 18, "offers are repeated")
    assert len(world.fetched()) == 3
    assert len(world.store.digests()) == 3
    assert "federation.disk_budget" in str(world.ear.of(SkillUnavailable)[0].data.reason)
    first = next(card for card in cards if card.digest == world.fetched()[0])
    await world.say(SkillInstalled(card=first, peer="stage"))
    missing = next(card for card in cards if card.digest not in world.fetched())
    unavailable = len(world.ear.of(SkillUnavailable))
    await world.want(missing)
    await world.ear.first(SkillUnavailable, unavailable + 1)
    await world.say(SkillRetired(name="x", version=1, digest=first.digest, reason="old"))
    await until(lambda: world.service.counters["serving"] == 0, "there is room")
    await world.want(missing)
    await until(lambda: missing.digest in world.fetched(), "now it comes")


async def test_a_busy_peer_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    card = world.offer(1)
    refusals = iter(range(5))

    def busy(data: bytes, start: int) -> Any:
        if next(refusals, None) is not None:
            raise flight.FlightUnavailableError("16 transfers are under way, as many as may be")
        return frames(pieces(data[start:]))

    world.stage.file = busy
    await world.start()
    await world.discovered(card)
    await world.want(card)
    await world.ear.first(SkillFetched)
    assert not world.ear.of(SkillUnavailable)


async def test_a_peer_that_leaves_takes_its_offers_with_it(world: World) -> None:
    card = world.offer(1)
    await world.start()
    await world.discovered(card)

    def silent() -> Any:
        raise flight.FlightUnavailableError("nobody is here")

    world.stage.health = silent
    left = await world.ear.first(PeerLeft)
    assert (left.data.peer, left.data.endpoint) == ("stage", world.stage.endpoint.uri)
    assert (world.service.counters["peers"], world.service.counters["offers"]) == (0, 0)
    await world.want(card)
    await world.ear.first(SkillUnavailable)


async def test_many_refusals_do_not_fill_the_journal(world: World) -> None:
    stranger = NodeKey.generate()
    numbers = iter(range(10**6))

    def endless() -> Any:
        start = next(numbers) * 200
        return frames(
            msgspec.json.encode(signed(b"%d" % number, key=stranger, base_model=MINILM))
            for number in range(start, start + 200)
        )

    world.stage.skills = endless
    world.stage.health = lambda: frames([world.stage.says(revision=str(next(numbers)))])
    await world.start()
    await until(lambda: world.stage.listings >= 3, "it tells them again and again")
    assert 0 < len(world.ear.of(SkillRejected)) <= 64


async def test_a_node_that_cannot_federate_says_so_and_tries_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.1)
    key = world.processes.state.keys / "node.key"
    key.write_text("no key")
    key.chmod(0o600)
    card = world.offer(1)
    service = await world.start()
    assert service.counters["federating"] == 0
    await world.want(card)
    await world.ear.first(SkillUnavailable)
    key.unlink()
    await world.discovered(card)
    assert service.counters["federating"] == 1


async def test_it_ends_in_the_middle_of_a_transfer(world: World) -> None:
    card = world.offer(1)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hanging(data: bytes, start: int) -> Any:
        def parts() -> Iterator[bytes]:
            yield data[: len(data) // 2] * 2  # a whole frame of what is too much for the end
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)

        return frames(parts())

    world.stage.file = hanging
    await world.start()
    await world.discovered(card)
    await world.want(card)
    await until(lambda: bool(world.stage.asked), "it is being fetched")
    assert world.service.queue == 1
    async with asyncio.timeout(5):
        await world.processes.kill(world.service)
    incoming = world.processes.state.of("federation") / "incoming"
    await until(lambda: not list(incoming.iterdir()), "what was under way is removed")
    release.set()
    assert world.fetched() == []
