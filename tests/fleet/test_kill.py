"""Every process is killed in turn while the fleet learns: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from bus import Bus
from schemas import (
    Event,
    FeedbackGiven,
    FeedbackJudged,
    FleetHeartbeat,
    LearningBatchQueued,
    LearningBatchRejected,
    LearningEvent,
    Payload,
    SkillInstalled,
    SkillPublished,
    TrainingRejected,
    TrainingRequested,
)
from services.runtime.client import FleetClient
from tests.fleet import harness, jargon

CONFIG = """
[monitor]
batch_max_age = 3.0
[factory]
body_schedule = "off"
"""
VICTIMS = (
    "encoder",
    "router",
    "dissonance_monitor",
    "distiller",
    "factory",
    "adapter_manager",
    "broker",
)


async def journal(bus: Bus, kind: type[Payload]) -> list[Event]:
    found: list[Event] = []
    after = 0
    while True:
        page = await bus.read(kind, after=after)
        found += page.events
        if len(page.events) < 1000:
            return found
        after = page.events[-1].sequence or after


async def keep_encoding(client: FleetClient, stop: asyncio.Event) -> int:
    """Ask without a pause; any failure is raised. Returns how many requests were answered."""
    answered = 0
    while not stop.is_set():
        texts = [f"text {answered}", "how long does a flumox take"]
        encoded = await client.encode(texts, deadline_ms=60_000)
        assert encoded.vectors.shape == (2, encoded.vectors.shape[1])
        answered += 1
        await asyncio.sleep(0.05)
    return answered


async def kill(bus: Bus, service: str) -> None:
    """Kill one instance; return once another process says ready in its place."""
    async with bus.watch(FleetHeartbeat) as beats:
        while (beat := await beats.get(timeout=30)).data.service != service:
            pass
        victim = beat.data
        os.kill(victim.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            async for beat in beats:
                new = beat.data
                if (new.service, new.instance) != (service, victim.instance):
                    continue
                if new.pid != victim.pid and new.state == "ready":
                    return


async def answered(bus: Bus) -> Counter[str]:
    """How often each batch was made a task of, or refused."""
    tasks = await journal(bus, TrainingRequested)
    found = Counter(batch for event in tasks for batch in event.data.batch_ids)
    found.update(event.data.batch_id for event in await journal(bus, LearningBatchRejected))
    return found


async def loop_is_idle(bus: Bus) -> bool:
    """Every piece is judged, every clash in a batch (or too few are left for one), and every task
    has its verdict.
    """
    if len(await journal(bus, FeedbackJudged)) < len(await journal(bus, FeedbackGiven)):
        return False
    queued = {event.data.batch_id for event in await journal(bus, LearningBatchQueued)}
    if queued - set(await answered(bus)):
        return False
    clashes = await journal(bus, LearningEvent)
    batched = sum(len(batch.data.events) for batch in await journal(bus, LearningBatchQueued))
    tasks = {event.data.task_id for event in await journal(bus, TrainingRequested)}
    ended = {event.data.task_id for event in await journal(bus, TrainingRejected)}
    ended |= {event.data.task_id for event in await journal(bus, SkillPublished)}
    return len(clashes) - batched < 4 and bool(tasks) and tasks <= ended


@pytest.mark.timeout(420)
async def test_nothing_is_lost_or_doubled_when_processes_are_killed(short_path: Path) -> None:
    pairs = jargon.pairs()
    with harness.running(short_path, "--workers", "2", config=CONFIG) as fleet:
        async with fleet.bus() as bus, fleet.client("/test/2") as encoding:
            client = FleetClient(bus)
            stop = asyncio.Event()
            serving = asyncio.create_task(keep_encoding(encoding, stop))
            acknowledged: list[str] = []

            async def give(part: list[tuple[str, str]]) -> None:
                for query, passage in part:
                    wrong = [other for other in jargon.PASSAGES if other != passage]
                    acknowledged.append(
                        await client.feedback(query, [passage], wrong, domain="shop", served=())
                    )

            size = len(pairs) // len(VICTIMS)
            for number, victim in enumerate(VICTIMS):
                giving = asyncio.create_task(give(pairs[number * size : (number + 1) * size]))
                await kill(bus, victim)
                await giving
            await harness.until(
                lambda: loop_is_idle(bus), seconds=120, every=1.0, what="every task has a verdict"
            )
            stop.set()
            assert await serving > 20, "requests were answered throughout"

            given = {event.id for event in await journal(bus, FeedbackGiven)}
            assert set(acknowledged) <= given, "no acknowledged feedback is lost"
            judged = Counter(e.data.feedback_id for e in await journal(bus, FeedbackJudged))
            assert judged == Counter(acknowledged), "every piece is judged exactly once"
            clashes = Counter(e.data.feedback_id for e in await journal(bus, LearningEvent))
            batched = Counter(
                clash.feedback_id
                for batch in await journal(bus, LearningBatchQueued)
                for clash in batch.data.events
            )
            assert max(clashes.values()) == 1
            assert max(batched.values()) == 1, "no clash is in two batches"
            assert set(batched) <= set(clashes)
            assert set((await answered(bus)).values()) == {1}, "no batch is in two tasks"
            published = await journal(bus, SkillPublished)
            assert published, "the domain was learnt"
            versions = [event.data.card.version for event in published]
            assert versions == list(range(1, len(versions) + 1)), "versions count up by one"
            digests = [event.data.card.digest for event in published]
            assert len(set(digests)) == len(digests), "no card is published twice"
            assert len({event.data.task_id for event in published}) == len(published)
            installed = Counter(e.data.card.digest for e in await journal(bus, SkillInstalled))
            assert installed == Counter(digests), "every published card is installed, once"
            assert not await bus.dead_letters()

            named = await client.encode(["flumox please"], skills=["shop"])
            assert named.rows[0].skills[0].digest == digests[-1]
