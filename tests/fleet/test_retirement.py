"""A bad version is shipped on purpose: feedback finds it out, and the one before serves again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from bus import Bus
from lora.card import LoRACard
from lora.store import CardStore
from schemas import (
    Event,
    FeedbackGiven,
    Payload,
    SkillPublished,
    SkillRetire,
    SkillRetired,
    TrainingRejected,
)
from services.runtime.client import FleetClient
from tests.fleet import harness, jargon
from tests.fleet.cards import install

CONFIG = """
[monitor]
batch_size = 512
batch_max_age = 4.0
[factory]
body_schedule = "off"
head_time_budget = 3.0
"""
KNOWN = tuple(jargon.CODES)[:5]


def parts() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What is asked at first, of five codes, and what later, of all eight."""
    first: list[tuple[str, str]] = []
    later: list[tuple[str, str]] = []
    for number, (query, passage) in enumerate(sorted(jargon.pairs())):
        known = any(code in query for code in KNOWN)
        (first if known and number % 5 < 3 else later).append((query, passage))
    return first, later


def spoiled(card: LoRACard) -> LoRACard:
    """The next version: routed as this one is, and harmful to whatever it is given."""
    head = card.modules["embedding"]
    random = np.random.default_rng(0)
    noise = 0.5 * random.standard_normal(head.b.shape).astype(np.float32)
    assert card.digest is not None
    return replace(
        card,
        version=card.version + 1,
        parents=(card.digest,),
        modules={"embedding": replace(head, b=noise)},
        digest=None,
        bytes=None,
    )


async def give(bus: Bus, pairs: Sequence[tuple[str, str]]) -> None:
    given = []
    for query, passage in pairs:
        wrong = tuple(other for other in jargon.PASSAGES if other != passage)
        piece = FeedbackGiven(
            query=query, relevant=(passage,), irrelevant=wrong, domain="shop", served=()
        )
        given.append(Event(data=piece, source=bus.source))
    await bus.publish(*given)


def pids(fleet: harness.Fleet) -> set[int]:
    """The processes that the supervisor started; a training child is a grandchild."""
    return {child.pid for child in psutil.Process(fleet.process.pid).children()}


async def first_of(bus: Bus, *kinds: type[Payload], after: int = 0) -> Event:
    async with bus.watch(kinds, after=after) as events:
        while True:
            event = await events.get(timeout=150)
            if not (isinstance(event.data, TrainingRejected) and event.data.reason == "superseded"):
                return event


@pytest.mark.timeout(420)
async def test_what_proves_worse_is_retired_and_the_version_before_serves_again(
    short_path: Path,
) -> None:
    first, later = parts()
    with harness.running(short_path, "--workers", "1", config=CONFIG, covers=False) as fleet:
        async with fleet.bus() as bus:
            client = FleetClient(bus)

            async def served() -> list[str]:
                """The version that serves a known question by name, and by routing."""
                named = await client.encode(["how long does a flumox take"], skills=["shop"])
                routed = await client.encode(["how long does a flumox take"])
                return [row.skills[0].digest for it in (named, routed) for row in it.rows]

            await give(bus, first)
            good = (await first_of(bus, SkillPublished)).data.card
            await harness.until(
                lambda: _installed(client, 1), seconds=30, what="the first version serves"
            )
            before = pids(fleet)
            store = CardStore(fleet.state / "cards")
            bad = await install(bus, fleet, spoiled(store.open(good.digest)))

            async def bad_serves() -> bool:
                return await served() == [bad.digest] * 2

            # The router hears of it as we do, with no order between the two.
            await harness.until(bad_serves, seconds=20, what="the bad version serves")

            await give(bus, later)
            told = await first_of(bus, SkillRetire)
            order = told.data
            retired = (await first_of(bus, SkillRetired)).data
            assert (order.version, order.digest) == (2, bad.digest)
            assert order.successor == retired.successor == good.digest
            assert "version 2 is worse than version 1" in order.reason

            async def good_serves() -> bool:
                return await served() == [good.digest] * 2

            await harness.until(good_serves, seconds=20, what="the first version serves again")
            assert pids(fleet) == before, "nothing was started anew"

            third = await first_of(bus, SkillPublished, TrainingRejected, after=told.sequence or 0)
            assert isinstance(third.data, SkillPublished), third.data
            assert third.data.card.version == 3, "a retired version's number is not used again"
            assert third.data.card.parents == (good.digest,), "judged against the one that returned"
            assert third.data.card.metrics["before"] > 0.3


async def _installed(client: FleetClient, version: int) -> bool:
    return any(it.version == version and it.state == "installed" for it in await client.skills())
