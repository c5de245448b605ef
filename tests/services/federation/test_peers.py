"""Who is there: joined when they answer, left when they do not, whatever they say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from pyarrow import flight

from schemas import SkillCard
from services.federation import peers as module
from services.federation.client import LoRAFlightClient
from services.federation.discovery import Sighting
from services.federation.identity import NodeKey, fingerprint_of
from services.federation.peers import Peers
from services.federation.protocol import Endpoint, Health
from tests.services.encoder.processes import until
from tests.services.federation.nodes import (
    AUTHOR,
    Stage,
    client_of,
    frames,
    noise,
    signed,
    staged,
)

DATA = noise(1000)
CARD = signed(DATA)
OWN = NodeKey.generate()
INTERVAL = 0.05


class Diary:
    """Hears of peers; `failing` makes it raise."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.cards: dict[str, tuple[SkillCard, ...]] = {}
        self.failing = False

    async def joined(self, peer: str, endpoint: str) -> None:
        self.told.append(("joined", peer, endpoint))

    async def offers(self, peer: str, cards: tuple[SkillCard, ...]) -> None:
        self.told.append(("offers", peer))
        self.cards[peer] = cards
        if self.failing:
            raise RuntimeError("nobody listens")

    async def left(self, peer: str, endpoint: str) -> None:
        self.told.append(("left", peer))
        if self.failing:
            raise RuntimeError("nobody listens")

    def count(self, what: str, peer: str = "stage") -> int:
        return sum(entry[:2] == (what, peer) for entry in self.told)


class World:
    def __init__(self, client: LoRAFlightClient, **options: Any) -> None:
        self.client, self.diary = client, Diary()
        given = {"key": OWN.public, "interval": INTERVAL, "most": 8, "log": structlog.get_logger()}
        self.peers = Peers(client, self.diary, **given | options)

    async def heard(self, what: str, peer: str = "stage", number: int = 1) -> None:
        await until(
            lambda: self.diary.count(what, peer) >= number, f"{what} {peer}: {self.diary.told}"
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


@pytest.fixture
def stage(server: Stage) -> Stage:
    server.reset()
    server.node, server.key = "stage", AUTHOR.public
    server.offer(CARD, DATA)
    return server


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "CALM", 0.01)
    world = World(client_of(tmp_path))
    yield world
    await world.peers.aclose()
    world.client.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("follow")]


def sighting(stage: Stage, **fields: Any) -> Sighting:
    seen = Sighting(
        stage.node, fingerprint_of(stage.key), ("127.0.0.1",), stage.endpoint.port, False
    )
    return replace(seen, **fields)


def silent() -> Any:
    raise flight.FlightUnavailableError("not there")


async def test_a_peer_joins_tells_what_it_offers_and_leaves(world: World, stage: Stage) -> None:
    world.peers.follow("somewhere", stage.endpoint)
    await world.heard("offers")
    assert world.diary.told[0] == ("joined", "stage", stage.endpoint.uri)
    assert world.diary.cards["stage"] == (CARD,)
    assert world.peers.here == {"stage": stage.endpoint.uri}

    other = stage.offer(signed(noise(2000, 2), "other"), b"")
    await world.heard("offers", number=2)
    assert world.diary.cards["stage"] == (CARD, other)

    stage.health = silent
    await world.heard("left")
    assert world.peers.here == {}
    stage.health = lambda: frames([stage.says()])
    await world.heard("joined", number=2)
    await world.heard("offers", number=3)


async def test_one_question_without_an_answer_is_forgiven(world: World, stage: Stage) -> None:
    world.peers.follow("somewhere", stage.endpoint)
    await world.heard("offers")
    answers = iter([silent, silent])
    stage.health = lambda: next(answers, lambda: frames([stage.says()]))()
    asked = stage.questions
    await until(lambda: stage.questions > asked + 4, "it is asked on")
    assert world.diary.count("left") == 0
    assert world.diary.count("joined") == 1


async def test_a_peer_that_moves_stays(world: World, stage: Stage) -> None:
    world.peers.found(sighting(stage))
    await world.heard("offers")
    with staged() as elsewhere:
        elsewhere.offer(CARD, DATA)
        stage.health = silent
        world.peers.found(sighting(elsewhere))
        await until(
            lambda: world.peers.here == {"stage": elsewhere.endpoint.uri}, "its new address"
        )
        assert world.diary.count("left") == 0
        assert world.diary.count("joined") == 1


async def test_what_is_announced_in_a_peers_name_does_not_drive_it_away(
    world: World, stage: Stage
) -> None:
    world.peers.found(sighting(stage))
    await world.heard("offers")
    with staged(key=NodeKey.generate().public) as thief:
        world.peers.found(sighting(thief))
        await until(lambda: thief.questions > 0, "the other one is looked at")
        asked = stage.questions
        await until(lambda: stage.questions > asked + 3, "the first one is asked on")
        nowhere = sighting(stage, port=9, fingerprint="0" * 32)
        world.peers.found(nowhere)
        asked = stage.questions
        await until(lambda: stage.questions > asked + 3, "it is asked on")
        assert world.diary.count("left") == 0
        assert world.peers.here == {"stage": stage.endpoint.uri}
        world.peers.found(sighting(thief))
        stage.health = silent
        await world.heard("left")
        await world.heard("joined", number=2)  # now that nobody else has the name


async def test_of_two_who_claim_one_name_the_first_has_it(world: World, stage: Stage) -> None:
    with staged() as second:
        for name, endpoint in (("one", stage.endpoint), ("two", second.endpoint)):
            world.peers.follow(name, endpoint)
        await world.heard("offers")
        await until(lambda: stage.questions > 2 and second.questions > 2, "both are asked")
        assert world.diary.count("joined") == 1
        (where,) = world.peers.here.values()
        first = stage if where == stage.endpoint.uri else second
        first.health = silent
        await world.heard("left")
        await world.heard("joined", number=2)
        assert list(world.peers.here.values()) != [where]


class Racing(LoRAFlightClient):
    """Lets two who were found good go on together, and one of them come late."""

    both = threading.Barrier(2)
    entered = threading.Event()

    def add_peer(self, peer: str, endpoint: Endpoint, check: Any = None) -> Health:
        def slow(health: Health) -> None:
            check(health)
            with contextlib.suppress(threading.BrokenBarrierError):
                if self.both.wait(timeout=1.5):
                    self.entered.wait(timeout=5.0)

        return super().add_peer(peer, endpoint, slow)


async def test_who_comes_second_by_a_hair_does_not_take_the_name_over(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALM", 0.01)
    client = Racing(tmp_path, trusted=lambda _: True)
    world = World(client)
    with staged() as second:
        for name, endpoint in (("one", stage.endpoint), ("two", second.endpoint)):
            world.peers.follow(name, endpoint)
        await world.heard("joined")
        client.entered.set()
        (where,) = world.peers.here.values()
        first, other = (stage, second) if where == stage.endpoint.uri else (second, stage)
        asked = other.questions
        await until(lambda: other.questions > asked + 2, "the other tries again")
        asked = first.questions
        await until(lambda: first.questions > asked + 2, "the first is asked, not the other")
        await world.peers.aclose()
        await asyncio.to_thread(client.close)


@pytest.mark.parametrize("lie", ["key", "node", "self"])
async def test_who_is_not_who_was_announced_is_not_heeded(
    world: World, stage: Stage, lie: str
) -> None:
    announced = sighting(stage)
    if lie == "key":
        stage.key = NodeKey.generate().public
    elif lie == "node":
        stage.node = "somebody-else"
    else:
        stage.key = OWN.public
    world.peers.found(announced)
    if lie == "self":
        await until(lambda: not world.peers._places, "one does not follow oneself")
    else:
        await until(lambda: stage.questions > 3, "it is asked again")
    assert world.diary.told == []


async def test_what_keeps_a_peer_away_is_told_of_an_address_that_can_be_tried(
    world: World, stage: Stage
) -> None:
    with socket.socket() as taken, structlog.testing.capture_logs() as lines:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        world.peers.found(sighting(stage, port=port, addresses=("127.0.0.1", "fe80::1%lo")))
        await until(lambda: bool(lines), "a complaint")

    assert "no connection" in lines[0]["why"]


async def test_a_node_that_is_renamed_leaves_and_joins(world: World, stage: Stage) -> None:
    world.peers.follow("somewhere", stage.endpoint)
    await world.heard("offers")
    stage.node = "renamed"
    await world.heard("offers", "renamed")
    assert world.diary.count("left") == 1
    assert world.peers.here.keys() == {"renamed"}


async def test_a_goodbye_counts_when_it_answers_no_more(world: World, stage: Stage) -> None:
    world.peers.found(sighting(stage))
    await world.heard("offers")
    world.peers.lost("stage")
    asked = stage.questions
    await until(lambda: stage.questions > asked + 3, "it still answers")
    assert world.diary.count("left") == 0
    stage.health = silent
    await world.heard("left")
    await until(lambda: not world.peers._places, "it is forgotten")


async def test_whose_hearer_fails_is_followed_on(world: World, stage: Stage) -> None:
    world.diary.failing = True
    world.peers.follow("somewhere", stage.endpoint)
    await world.heard("offers", number=2)
    stage.health = silent
    await world.heard("left")
    world.diary.failing = False
    stage.health = lambda: frames([stage.says()])
    await world.heard("joined", number=2)


async def test_inventions_make_room_for_peers(world: World, stage: Stage) -> None:
    for number in range(20):
        world.peers.found(sighting(stage, node=f"invented-{number}", port=9))
    assert len(world.peers._places) == 8
    await until(
        lambda: any(place.failures for place in world.peers._places.values()), "one is tried"
    )
    world.peers.found(sighting(stage))
    await world.heard("offers")
    assert len(world.peers._places) <= 8


async def test_changes_at_every_question_are_heard_less_and_less(
    world: World, stage: Stage
) -> None:
    revisions = iter(range(10**6))
    stage.health = lambda: frames([stage.says(revision=f"r{next(revisions)}")])
    world.peers.follow("somewhere", stage.endpoint)
    await until(lambda: stage.questions > 12, "it is asked on")
    assert 2 <= stage.listings <= 5


async def test_strangers_that_say_nothing_keep_no_peer_waiting(world: World, stage: Stage) -> None:
    world.peers.follow("somewhere", stage.endpoint)
    await world.heard("offers")
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        port = deaf.getsockname()[1]
        for number in range(7):
            world.peers.follow(f"deaf-{number}", Endpoint("127.0.0.1", port))
        asked = stage.questions
        await until(lambda: stage.questions > asked + 5, "the peer is asked as ever", 4.0)
        assert world.diary.count("left") == 0


def test_the_end_waits_for_nobody(tmp_path: Path) -> None:
    """A peer that says nothing holds a thread of its own until its time is over, and no more."""

    async def run(port: int) -> float:
        world = World(client_of(tmp_path))
        world.peers.follow("deaf", Endpoint("127.0.0.1", port))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await world.peers.aclose()
        await asyncio.to_thread(world.client.close)
        return time.monotonic() - started

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        assert asyncio.run(run(deaf.getsockname()[1])) < 2.0
