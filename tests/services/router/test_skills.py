"""Names and meaning kept together while skills come and go."""

import asyncio
import base64
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
from services.router.offers import Offers
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


def foreign(card: SkillCard, **fields: Any) -> SkillCard:
    return msgspec.structs.replace(card, signer="ed25519:" + "A" * 43, **fields)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timed(embedder: Embedder) -> tuple[Skills, Clock]:
    clock, log = Clock(), structlog.get_logger()
    offers = Offers(max_peers=2, max_cards=2)
    made = Skills(
        description_threshold=0.6, embed=embedder, log=log, offers=offers, patience=5, clock=clock
    )
    return made, clock


async def test_an_offer_that_is_not_repeated_is_over(
    timed: tuple[Skills, Clock], card: Any
) -> None:
    skills, clock = timed
    kept, dropped = card("kept", EAST), card("dropped", NORTH)
    for one in (kept, dropped):
        skills.offer(foreign(one), "london")
    assert await chosen(skills, NORTH) == ["dropped"]
    clock.now += 4
    skills.offer(foreign(kept), "london")
    clock.now += 1.5
    skills.expire()
    assert await chosen(skills, NORTH) == []
    assert await chosen(skills, EAST) == ["kept"]
    skills.offer(foreign(dropped), "london")
    assert await chosen(skills, NORTH) == ["dropped"]
    clock.now += 6
    skills.expire()
    assert not skills.routable("query")


async def test_when_one_peer_withdraws_a_card_it_is_as_the_other_describes_it(
    timed: tuple[Skills, Clock], card: Any
) -> None:
    skills, clock = timed
    honest = foreign(card("law", EAST))
    elsewhere = msgspec.structs.replace(honest, prototypes=card("x", NORTH).prototypes)
    skills.offer(elsewhere, "liar")
    skills.offer(honest, "honest")
    assert await chosen(skills, NORTH) == ["law"]
    skills.withdraw("liar")
    assert await chosen(skills, NORTH) == []
    assert await chosen(skills, EAST) == ["law"]
    clock.now += 6
    skills.expire()
    assert await chosen(skills, EAST) == []


async def test_too_many_offers_are_not_heeded(timed: tuple[Skills, Clock], card: Any) -> None:
    skills, _ = timed
    for peer in ("london", "rome", "paris"):
        for number in (1, 2, 3):
            skills.offer(foreign(card(f"{peer}{number}", EAST)), peer)
    offered = {found.card.name for found in skills.directory.offered()}
    assert offered == {"london1", "london2", "rome1", "rome2"}


@pytest.mark.parametrize("built", [True, False])
async def test_anothers_card_with_a_description_alone_is_for_named_use_only(
    skills: Skills, card: Any, embedder: Embedder, built: bool
) -> None:
    if built:
        await skills.index(2)
    bare = foreign(card("theirs", description="the north"))
    assert not skills.install(bare, "london")
    skills.offer(foreign(card("offered", description="the north")), "london")
    assert not skills.routable("query")
    assert await chosen(skills, NORTH) == []
    assert embedder.asked == []
    assert skills.directory.resolve("theirs").card == bare
    assert skills.directory.resolve("london/offered").peer == "london"


async def test_anothers_card_bends_no_documents_unless_it_is_named(
    skills: Skills, card: Any
) -> None:
    both = ("query", "document")
    skills.install(foreign(card("theirs", EAST, applies_to=both)), "london")
    skills.offer(foreign(card("offered", NORTH, applies_to=both)), "london")
    assert not skills.routable("document")
    assert await chosen(skills, EAST, "document") == []
    assert await chosen(skills, EAST) == ["theirs"]
    assert await chosen(skills, NORTH) == ["offered"]
    assert await chosen(skills, NORTH, "document") == []
    skills.install(card("ours", EAST, applies_to=both))
    assert await chosen(skills, EAST, "document") == ["ours"]


async def test_the_threshold_of_anothers_installed_card_is_floored(
    skills: Skills, card: Any
) -> None:
    skills.install(foreign(card("greedy", EAST, threshold=-1.0)), "london")
    assert await chosen(skills, np.array([0.5, 0.86], np.float32)) == []
    assert await chosen(skills, np.array([0.7, 0.7], np.float32)) == ["greedy"]


@pytest.mark.parametrize(
    "claims",
    [
        {"prototypes": base64.b64encode(np.full((1, 2), np.nan, "<f4").tobytes()).decode()},
        {"prototypes": base64.b64encode(np.zeros((1, 2), "<f4").tobytes()).decode()},
        {"prototypes": base64.b64encode(np.ones((257, 2), "<f4").tobytes()).decode()},
        {"prototypes": "no base64 at all"},
        {"prototypes": "AAAA"},
        {"threshold": float("nan")},
        {"threshold": float("-inf")},
        {"boundary": "AAAA"},
        {"boundary": base64.b64encode(np.full(4, np.nan, "<f2").tobytes()).decode()},
        {"applies_to": ("everything",)},
        {"name": "ours", "version": 99, "threshold": -1.0},
        {"prototypes": base64.b64encode(EAST.astype("<f4").tobytes()).decode()},
    ],
)
@pytest.mark.parametrize("built", [True, False])
async def test_silly_claims_keep_no_skill_of_ours_from_answering(
    skills: Skills, card: Any, claims: dict[str, Any], built: bool
) -> None:
    if built:
        await skills.index(2)
    skills.install(card("ours", EAST))
    silly = foreign(card("silly", NORTH), **claims)
    skills.offer(silly, "london")
    assert await chosen(skills, EAST) == ["ours"]
    assert await chosen(skills, NORTH) == []
    skills.install(silly, "london")
    assert await chosen(skills, EAST) == ["ours"]
    assert await chosen(skills, NORTH) == []


async def test_an_installed_card_is_not_routed_to_as_a_peer_describes_it(
    skills: Skills, card: Any
) -> None:
    await skills.index(2)
    described = card("described", description="the east")
    broken = msgspec.structs.replace(card("broken", EAST), prototypes="AAAA")
    for one in (described, broken):
        lie = msgspec.structs.replace(one, prototypes=card("x", NORTH).prototypes)
        skills.offer(foreign(lie), "london")
        assert await chosen(skills, NORTH) == [one.name]
        skills.install(one)
        assert await chosen(skills, NORTH) == []
    await skills.describe(described)
    assert await chosen(skills, EAST) == ["described"]


async def test_skills_may_come_and_go_while_offers_are_indexed(skills: Skills, card: Any) -> None:
    for number in range(60):
        point = np.array([np.cos(1 + number / 100), np.sin(1 + number / 100)], np.float32)
        skills.offer(foreign(card(f"o{number}", point)), "london")
    building = asyncio.create_task(skills.index(2))
    while skills._index is None:
        await asyncio.sleep(0)
    assert not building.done()
    skills.install(card("late", EAST))
    skills.offer(foreign(card("south", -NORTH)), "rome")
    skills.withdraw("london")
    index = await building
    assert await chosen(skills, NORTH) == []
    assert await chosen(skills, EAST) == ["late"]
    assert await chosen(skills, -NORTH) == ["south"]
    assert index is await skills.index(2)
