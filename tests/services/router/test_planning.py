"""What is waited for before a request is decided, and for how long."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import structlog

from schemas import EncodeRequested, SkillCard, now
from services.router.base_vectors import BaseVectors
from services.router.outstanding import Answer
from services.router.planning import Plan, Planner
from services.router.skills import Skills
from tests.services.router.test_skills import EAST, NORTH, card

__all__ = ["card"]

ANNE = "ed25519:" + "A" * 43


class Fetcher:
    """Brings the cards it was given, or does not; remembers how long it might have waited."""

    def __init__(self, skills: Skills) -> None:
        self.skills = skills
        self.bringing: dict[str, SkillCard] = {}
        self.pausing: set[str] = set()
        self.asked: list[tuple[str, bool, float]] = []
        self.peers: list[str] = []

    def paused(self, digest: str, peer: str) -> bool:
        return digest in self.pausing or peer in self.pausing

    async def fetch(self, card: SkillCard, peer: str, *, named: bool, patience: float) -> bool:
        self.asked.append((card.name, named, patience))
        self.peers.append(peer)
        came = self.bringing.get(card.digest)
        if came is not None:
            self.skills.install(came, peer)
        return came is not None


class Node:
    """A router's knowledge without its processes: texts lie where `places` says."""

    def __init__(self) -> None:
        self.places: dict[str, Any] = {"east": EAST, "north": NORTH, "west": -EAST}
        self.skills = Skills(
            description_threshold=0.6, embed=self.embed, log=structlog.get_logger()
        )
        self.fetcher = Fetcher(self.skills)
        self.planner = Planner(
            directory=self.skills.directory,
            vectors=BaseVectors(100),
            ask=self.ask,
            fetcher=self.fetcher,
            index=self.skills.index,
            routable=self.skills.routable,
        )

    async def embed(self, text: str) -> Any:
        return self.places[text]

    async def ask(self, role: Any, texts: Sequence[str], deadline: datetime, client: str) -> Answer:
        return Answer(np.stack([self.places[text] for text in texts]), "worker")

    async def plan(self, *texts: str, seconds: float = 30.0, **fields: Any) -> Plan:
        data = EncodeRequested(texts=texts, reply_to="x", **fields)
        return await self.planner.plan(data, now() + timedelta(seconds=seconds))

    def offer(self, card: SkillCard, peer: str = "london") -> SkillCard:
        offered = msgspec.structs.replace(card, signer=ANNE)
        self.skills.offer(offered, peer)
        return offered


def used(plan: Plan) -> list[tuple[str, ...]]:
    return [tuple(plan.cards[i].name for i, _ in row.skills) for row in plan.rows]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node()


@pytest.mark.parametrize("fields", [{}, {"route": "named", "skills": ("london/theirs",)}])
async def test_half_of_the_time_that_is_left_is_for_answering_without_it(
    node: Node, card: Any, fields: dict[str, Any]
) -> None:
    node.offer(card("theirs", EAST))
    plan = await node.plan("east", seconds=10.0, **fields)
    ((name, named, patience),) = node.fetcher.asked
    assert (name, named) == ("theirs", bool(fields))
    assert 0 <= patience <= 5
    assert [row.reason for row in plan.rows] == ["peer_timeout"]
    await node.plan("east", seconds=-1.0, **fields)
    assert node.fetcher.asked[1][2] == 0


async def test_an_offer_that_is_not_waited_for_makes_way_for_another(node: Node, card: Any) -> None:
    evil = node.offer(card("evil", EAST), "evil")
    good = node.offer(card("good", np.array([0.9, 0.436], np.float32)), "good")
    node.fetcher.pausing = {evil.digest}
    node.fetcher.bringing = {good.digest: good}
    plan = await node.plan("east", "west")
    assert used(plan) == [("good",), ()]
    assert [row.reason for row in plan.rows] == [None, "below_threshold"]
    assert [name for name, _, _ in node.fetcher.asked] == ["good"]

    node.fetcher.pausing = {evil.digest, good.digest}
    node.skills.retire(good.digest)
    plan = await node.plan("east")
    assert [row.reason for row in plan.rows] == ["peer_timeout"]
    assert len(node.fetcher.asked) == 1, "nothing is left to wait for"


async def test_a_card_that_a_paused_peer_offers_is_wished_for_from_another(
    node: Node, card: Any
) -> None:
    theirs = card("theirs", EAST)
    node.fetcher.pausing = {"evil"}
    node.offer(theirs, "evil")
    assert [row.reason for row in (await node.plan("east")).rows] == ["peer_timeout"]
    assert node.fetcher.asked == []
    node.offer(theirs, "good")
    await node.plan("east")
    assert node.fetcher.peers == ["good"]


async def test_what_came_is_used_as_its_file_describes_it(node: Node, card: Any) -> None:
    true = card("theirs", NORTH)
    claimed = node.offer(msgspec.structs.replace(true, prototypes=card("x", EAST).prototypes))
    node.fetcher.bringing = {claimed.digest: msgspec.structs.replace(true, signer=ANNE)}
    plan = await node.plan("east", "north")
    assert used(plan) == [(), ("theirs",)]
    assert [row.reason for row in plan.rows] == ["below_threshold", None]

    plan = await node.plan("x", route="named", skills=("london/theirs",))
    assert plan.cards[0].target_modules == ("embedding",)


async def test_named_skills_that_come_are_used_and_others_are_told(node: Node, card: Any) -> None:
    first, second = node.offer(card("first", EAST)), node.offer(card("second", NORTH))
    node.fetcher.bringing = {first.digest: first}
    names = ("london/first", "london/second", first.digest)
    plan = await node.plan("west", route="named", skills=names)
    assert used(plan) == [("first",)]
    assert [row.reason for row in plan.rows] == ["peer_timeout"]
    node.fetcher.bringing[second.digest] = second
    plan = await node.plan("west", route="named", skills=names)
    assert used(plan) == [("first", "second")]
    assert [row.reason for row in plan.rows] == [None]
