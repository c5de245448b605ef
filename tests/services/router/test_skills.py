"""Names and meaning kept together while skills come and go."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import structlog

from lora.card import Adapter, BaseModel, LoRACard
from lora.store import CardStore
from schemas import SkillCard
from services.router.errors import Refused
from services.router.skills import Skills
from services.runtime.cards import describe

EAST, NORTH = np.eye(2, dtype=np.float32)


class Embedder:
    """Descriptions that speak of the north point north."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failing = False

    async def __call__(self, text: str) -> Any:
        self.asked.append(text)
        await asyncio.sleep(0)
        if self.failing:
            raise Refused("internal", "no worker")
        return NORTH if "north" in text else EAST


@pytest.fixture
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def skills(embedder: Embedder) -> Skills:
    return Skills(description_threshold=0.6, embed=embedder, log=structlog.get_logger())


@pytest.fixture
def card(tmp_path: Path) -> Any:
    store = CardStore(tmp_path)

    def make(name: str, points: Any = None, version: int = 1, **fields: Any) -> SkillCard:
        ones = np.full((2, 1), version, np.float32)
        given: dict[str, Any] = {
            "base_model": BaseModel("tiny", "a" * 64),
            "dim": 2,
            "modules": {"embedding": Adapter(ones, ones.T.copy(), 1, 1.0)},
            "prototypes": None if points is None else points[None],
            "threshold": 0.5,
        }
        return describe(store.put(LoRACard(name=name, version=version, **{**given, **fields})))

    return make


async def chosen(skills: Skills, vector: Any, role: Any = "query", **options: Any) -> list[str]:
    index = await skills.index(2)
    (found,) = index.decide(role, vector[None], 3, **options)
    return [match.name for match in found.matches]


async def test_skills_are_routable_before_and_after_the_index_is_built(
    skills: Skills, card: Any
) -> None:
    assert not skills.routable("query")
    skills.install(card("named", EAST, threshold=None))
    assert not skills.routable("query")
    skills.install(card("east", EAST))
    assert skills.routable("query")
    assert not skills.routable("document")
    assert await chosen(skills, EAST) == ["east"]
    assert skills.routable("query")
    assert not skills.routable("document")


async def test_a_newer_version_takes_over_and_gives_back(skills: Skills, card: Any) -> None:
    old, new = card("compass", EAST), card("compass", NORTH, version=2)
    skills.install(old)
    await skills.index(2)
    skills.install(new)
    assert await chosen(skills, NORTH) == ["compass"]
    assert await chosen(skills, EAST) == []
    skills.retire(new.digest)
    assert await chosen(skills, EAST) == ["compass"]


async def test_descriptions_are_embedded_when_the_index_is_built_and_later(
    skills: Skills, card: Any, embedder: Embedder
) -> None:
    skills.install(card("first", description="the north"))
    assert await chosen(skills, NORTH) == ["first"]

    second = card("second", description="the east")
    assert skills.install(second), "it must be described"
    await skills.describe(second)
    assert await chosen(skills, EAST) == ["second"]

    gone = card("third", description="more of the north")
    skills.install(gone)
    describing = asyncio.create_task(skills.describe(gone))
    await asyncio.sleep(0)
    skills.retire(gone.digest)
    await describing
    assert await chosen(skills, NORTH) == ["first"], "what was retired meanwhile stays out"


async def test_what_cannot_be_understood_is_still_there_by_name(
    skills: Skills, card: Any, embedder: Embedder
) -> None:
    embedder.failing = True
    skills.install(card("undescribed", description="the north"))
    wide = msgspec.structs.replace(card("wide", EAST), prototypes="AAAA")
    skills.install(wide)
    skills.install(card("east", EAST))
    assert await chosen(skills, EAST) == ["east"]
    assert skills.directory.resolve("wide").card == wide
    assert skills.directory.resolve("undescribed").card.name == "undescribed"


async def test_offers_come_and_go_and_give_way_to_what_is_installed(
    skills: Skills, card: Any
) -> None:
    here, there = card("here", EAST), card("there", NORTH)
    skills.offer(there, "london")
    skills.install(here)
    assert skills.routable("query")
    assert await chosen(skills, NORTH) == ["there"]
    assert await chosen(skills, NORTH, offers=False) == []

    late = card("late", NORTH, version=3)
    skills.offer(late, "paris")
    skills.offer(
        msgspec.structs.replace(late, digest="sha256:" + "0" * 64, prototypes="AA"), "rome"
    )
    by_digest = min(there, late, key=lambda card: card.digest)
    assert await chosen(skills, NORTH) == [by_digest.name], "offers are no rivals"
    skills.withdraw("paris")
    assert await chosen(skills, NORTH) == ["there"]

    skills.install(there)
    skills.withdraw("london")
    assert await chosen(skills, NORTH, offers=False) == ["there"]


async def test_what_is_retired_here_is_not_routed_to_because_a_peer_has_it(
    skills: Skills, card: Any
) -> None:
    both = card("both", EAST)
    await skills.index(2)
    skills.install(both)
    skills.offer(both, "london")
    skills.retire(both.digest)
    assert await chosen(skills, EAST) == []


async def test_a_peers_claim_is_not_believed_below_our_own_threshold(
    skills: Skills, card: Any
) -> None:
    skills.offer(card("greedy", EAST, threshold=-1.0), "london")
    slant = np.array([0.5, 0.86], np.float32)
    assert await chosen(skills, slant) == []
    assert await chosen(skills, EAST) == ["greedy"]
