"""Every process is killed in turn while the fleet learns: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from bus import Bus
from schemas import FleetHeartbeat
from services.runtime.client import FleetClient
from tests.fleet import harness, jargon
from tests.torture.fleet.books import faults_of, read_books

CONFIG = """
[monitor]
batch_max_age = 3.0
[factory]
body_schedule = "off"
head_time_budget = 3.0
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


async def keep_encoding(client: FleetClient, stop: asyncio.Event) -> int:
    """Ask without a pause; any failure is raised. Returns how many requests were answered."""
    answered = 0
    while not stop.is_set():
        texts = [f"text {answered}", "how long does a flumox take"]
        encoded = await client.encode(texts, deadline_ms=60_000)
        assert encoded.vectors.shape == (2, encoded.vectors.shape[1])
        answered += 1
        await asyncio.sleep(0.2)
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


async def loop_is_idle(bus: Bus) -> bool:
    """Every piece is judged, every clash in a batch (or too few are left for one), and every task
    has its verdict.
    """
    books = await read_books(bus)
    return bool(books.tasks) and not books.waiting


@pytest.mark.timeout(420)
async def test_nothing_is_lost_or_doubled_when_processes_are_killed(short_path: Path) -> None:
    pairs = jargon.pairs()
    with harness.running(short_path, "--workers", "2", config=CONFIG, covers=False) as fleet:
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

            books = await read_books(bus)
            assert not faults_of(books, acknowledged, acknowledged)
            assert books.learned, "the domain was learnt"
            assert not await bus.dead_letters()

            named = await client.encode(["flumox please"], skills=["shop"])
            assert named.rows[0].skills[0].digest == books.learned[-1].data.card.digest
