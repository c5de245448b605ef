"""A domain is forgotten: not a byte of what people said is left in the state folder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from bus import Bus
from schemas import (
    DomainForget,
    DomainForgotten,
    Event,
    FeedbackGiven,
    FeedbackJudged,
    Payload,
    TrainingRequested,
)
from services.runtime.client import FleetClient
from tests.fleet import harness, jargon
from tests.fleet.cards import head, install
from tests.services.forgetting import holding

CONFIG = """
[monitor]
batch_max_age = 2.0
[distiller]
teacher = "mock"
[factory]
body_schedule = "off"
head_time_budget = 3.0
"""
ORDER = ["dissonance_monitor", "distiller", "factory", "journal"]


def given(pairs: Sequence[tuple[str, str]], domain: str, source: str) -> list[Event[FeedbackGiven]]:
    """Feedback whose texts no other domain has."""
    found = []
    for query, passage in pairs:
        wrong = tuple(f"{domain}: {other}" for other in jargon.PASSAGES if other != passage)
        piece = FeedbackGiven(
            query=f"{domain}: {query}",
            relevant=(f"{domain}: {passage}",),
            irrelevant=wrong,
            domain=domain,
            served=(),
        )
        found.append(Event(data=piece, source=source))
    return found


async def first(bus: Bus, kind: type[Payload], count: int = 1) -> list[Event]:
    found: list[Event] = []
    async with bus.watch(kind, after=0) as events, asyncio.timeout(150):
        while len(found) < count:
            found.append(await events.get())
    return found


@pytest.mark.timeout(240)
async def test_what_people_said_is_gone_from_every_file_and_the_skill_still_serves(
    short_path: Path,
) -> None:
    pairs = jargon.pairs()[:40]
    lost = FeedbackGiven(query="nobody's question", relevant=("nowhere to be found",))
    mine = [f"shop: {text}" for pair in pairs for text in pair] + [lost.query, *lost.relevant]
    with harness.running(short_path, "--workers", "1", config=CONFIG, covers=False) as fleet:
        async with fleet.bus() as bus:
            client = FleetClient(bus)
            skill = await install(bus, fleet, head("shop", 1))
            shop, club = given(pairs, "shop", bus.source), given(pairs[:2], "club", bus.source)
            await bus.publish(*shop, *club, Event(data=lost, source=bus.source))
            await first(bus, TrainingRequested)
            judged = await first(bus, FeedbackJudged, len(shop) + len(club) + 1)
            places = {event.data.query: event.data.domain for event in judged}
            held = {name.split("/")[0] for name, _ in holding(fleet.state, mine)}
            assert held >= {"dissonance_monitor", "distiller"}, "it lay in files"

            domains = {"shop": None, places[lost.query]: None}
            for domain in domains:
                order = Event(data=DomainForget(domain=domain), source=bus.source)
                await bus.publish(order)
            # What is given now is none of it.
            later = FeedbackGiven(
                query="anew", relevant=("a beginning",), irrelevant=("an end",), domain="shop"
            )
            await bus.publish(Event(data=later, source=bus.source))
            words = await first(bus, DomainForgotten, len(ORDER) * len(domains))
            told = [event.data.service for event in words if event.data.domain == "shop"]
            assert told == ORDER
            assert all(event.data.kept == 0 for event in words)
            assert holding(fleet.state, mine) == []
            assert holding(fleet.state, ["club: "])

            await first(bus, FeedbackJudged, 3)
            left = {event.data.query for event in await first(bus, FeedbackGiven, 3)}
            assert left == {"anew", *(event.data.query for event in club)}
            named = await client.encode(["how long does a flumox take"], skills=["shop"])
            assert named.rows[0].skills[0].digest == skill.digest
            assert not await bus.dead_letters()
