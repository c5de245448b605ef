"""The shadow: versions as they are routed, on the same later pieces; who is retired, and when."""

import base64
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lora.training.gate import bootstrap
from schemas import BaseModelRef, Event, FeedbackJudged, SkillCard, SkillInstalled, SkillRetire
from services.factory import feedback, versions
from services.factory.feedback import FeedbackStore, Piece
from services.factory.shadow import FALSE_RATE, Shadow, compare, confidence_of
from services.factory.versions import VersionStore
from services.runtime.client import FleetClient
from services.runtime.store import open_store
from tests.services.factory.fakes import Bend, Stage, Vector, stage, vector

DIGEST = "sha256:" + "7" * 64


def card(text: str, threshold: float | None) -> SkillCard:
    """A version whose only prototype is this text."""
    return SkillCard(
        name="birds",
        version=2,
        digest=DIGEST,
        bytes=1,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="fake", sha256="0" * 64),
        applies_to=("query",),
        description="",
        prototypes=base64.b64encode(vector(text).astype(np.float32).tobytes()).decode(),
        threshold=threshold,
        metrics={},
        created="2024-05-01T00:00:00Z",
        parents=(),
    )


def pieces(count: int = 60) -> list[Piece]:
    return [
        Piece(f"answer to question {number}", (f"answer {number}",), (f"question {number}",))
        for number in range(count)
    ]


async def test_a_card_is_not_blamed_for_queries_that_it_is_never_given(tmp_path: Path) -> None:
    """Given a card that spoils every query, and a prototype far from all of them."""
    async with stage(tmp_path) as on:
        on.fleet.cards[DIGEST] = lambda text, base: -base
        client = FleetClient(on.bus)
        everywhere = await compare(client, pieces(), card("whales", None), None)
        nowhere = await compare(client, pieces(), card("whales", 0.9), None)
        given = await compare(client, pieces(), card("answer to question", 0.3), None)

    assert everywhere.accepted
    assert nowhere.gain == 0.0
    assert not nowhere.accepted
    assert given.accepted


class Watched:
    """Versions 1 and 2 of a skill, and the shadow that watches them."""

    def __init__(self, on: Stage, folder: Path) -> None:
        store = open_store(folder / "s.sqlite", versions.SCHEMA + feedback.SCHEMA)
        self.on = on
        self.versions = VersionStore(store, folder / "folds")
        self.feedback = FeedbackStore(store)
        self.shadow = Shadow(
            FleetClient(on.bus), self.versions, self.feedback, 0, "/factory/1", 50, 0.6
        )

    def ship(self, number: int, bend: Bend, *, ours: bool = True) -> None:
        digest = f"sha256:{number:064d}"
        shipped = msgspec.structs.replace(card("", None), version=number, digest=digest)
        self.on.fleet.cards[digest] = bend
        installed: Event[SkillInstalled] = Event(
            data=SkillInstalled(card=shipped),
            source="/adapter_manager/1",
            id=f"installed {number}",
            correlation_id=f"batch {number}",
        )
        self.versions.learn(shipped, 0.0, ours=ours, next_look=50 * ours, cause=installed)
        self.versions.learn(shipped, 0.0)  # a list tells nothing of that

    def hear(self, count: int) -> None:
        self.feedback.keep([(judged(piece), 1.0) for piece in pieces(count)])

    async def look(self) -> SkillRetire | None:
        version = self.versions.newest("birds")
        assert version is not None
        told = self.told = await self.shadow.look_at(version)
        return None if told is None else told.data


def judged(piece: Piece) -> FeedbackJudged:
    return FeedbackJudged(
        feedback_id=piece.query,
        query=piece.query,
        relevant=piece.relevant,
        irrelevant=piece.irrelevant,
        domain="birds",
        served=(),
        rouge_score=0.0,
        entropy_delta=0.0,
    )


def worse(text: str, base: Vector) -> Vector:
    return vector("question " + text.split()[-1])


def same(text: str, base: Vector) -> Vector:
    return base


@pytest.mark.parametrize(
    ("before", "present", "retired"),
    [(same, worse, True), (worse, same, False), (same, same, False), (worse, worse, False)],
    ids=["worse", "better", "equally-good", "equally-bad"],
)
async def test_only_what_is_worse_than_the_one_before_is_retired(
    tmp_path: Path, before: Bend, present: Bend, retired: bool
) -> None:
    async with stage(tmp_path) as on:
        watched = Watched(on, tmp_path)
        watched.ship(1, before)
        watched.ship(2, present)
        watched.hear(60)
        order = await watched.look()

    assert (order is not None) == retired
    if order is not None:
        assert (order.version, order.successor) == (2, f"sha256:{1:064d}")
        assert watched.told is not None
        assert watched.told.causation_id == "installed 2"
        assert watched.told.correlation_id == "batch 2"


async def test_a_version_of_others_is_looked_at_where_it_stands_upon_ours(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        watched = Watched(on, tmp_path)
        watched.hear(60)
        watched.ship(2, worse, ours=False)
        assert await watched.look() is None, "nothing of ours is below it"
        watched.ship(1, same)
        assert (await watched.look()) is not None


async def test_it_looks_when_the_feedback_has_doubled(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        watched = Watched(on, tmp_path)
        watched.ship(1, same)
        watched.ship(2, same)
        asked = []
        for count in (49, 50, 99, 100, 199, 200):
            watched.hear(count)
            before = len(on.fleet.asked)
            await watched.look()
            asked.append(len(on.fleet.asked) > before)
        version = watched.versions.newest("birds")

    assert asked == [False, True, False, True, False, True]
    assert version is not None
    assert version.looks == 3


def test_all_looks_together_share_the_false_rate() -> None:
    spent = [1.0 - confidence_of(looks) for looks in range(200)]

    assert sum(spent) <= FALSE_RATE
    assert sorted(spent, reverse=True) == spent


def test_equal_versions_are_rarely_retired_however_often_they_are_compared() -> None:
    """Two versions of one quality whose reciprocal ranks differ by chance, in 100 worlds."""
    random = np.random.default_rng(7)
    retired = 0
    for _ in range(100):
        gains = random.choice([-1.0, -0.5, 0.0, 0.5, 1.0], 400, p=[0.1, 0.1, 0.6, 0.1, 0.1])
        lows = [
            bootstrap(gains[:size], np.arange(size), 0, 1000, confidence_of(looks))[0]
            for looks, size in enumerate((50, 100, 200, 400))
        ]
        retired += max(lows) > 0.0

    assert retired <= 7
