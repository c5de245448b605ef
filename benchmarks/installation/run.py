"""One fleet; in each round a domain of its own is learned, and the way of its card is timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.installation.lessons import Lessons
from benchmarks.installation.timeline import KINDS, Timeline
from benchmarks.kit.feedback import feedback_events, publish_all
from benchmarks.kit.fleet import RunningFleet, fresh_state, running_fleet, settings_file
from benchmarks.kit.measure import ranks_of
from bus import Bus, connect
from schemas import now
from services.runtime.client import FleetClient

__all__ = ["SETTINGS", "NoCard", "installations"]

SETTINGS: dict[str, dict[str, Any]] = {"factory": {"body_schedule": "off"}}
"""Heads alone: a body would take the cores of the next round."""

SETTLED = 2.0  # seconds between two rounds


class NoCard(Exception):
    """A round came to no card; says why."""


async def installations(
    lessons: Lessons,
    pieces: int,
    rounds: int,
    *,
    limit: float,
    log: Path | None = None,
    tell: Callable[[], object] = int,
) -> list[Timeline]:
    """A timeline a round; the first domain, not counted, warms the fleet up.

    Raises `NoCard`, and `FleetFailed` where the fleet does not run.
    """
    found = []
    with fresh_state() as state:
        config = settings_file(state, SETTINGS)
        async with (
            running_fleet(state, config=config, log=log) as fleet,
            await connect(fleet.bus, source="/benchmark/1") as bus,
        ):
            client = FleetClient(bus, deadline_ms=120_000)
            base = (await client.encode(lessons.queries, route="base")).vectors
            stored = (await client.encode(lessons.passages, role="document", route="base")).vectors
            # What the base model gets wrong is a clash for certain, and every batch a full one.
            wrong = np.flatnonzero(ranks_of(base, stored, lessons.own) > 1).tolist()
            for number in range(rounds + 1):
                given = lessons.drawn(wrong, pieces, number)
                timeline = await _one(bus, client, fleet, given, f"round-{number}", limit)
                found.append(timeline)
                tell()
                await asyncio.sleep(SETTLED)
    return found[1:]


async def _one(
    bus: Bus, client: FleetClient, fleet: RunningFleet, given: Lessons, domain: str, limit: float
) -> Timeline:
    stored = (await client.encode(given.passages, role="document", route="base")).vectors
    asked = (await client.encode(given.queries, route="base")).vectors
    events = feedback_events(
        bus.source, domain, given.queries, asked, given.passages, stored, given.own
    )
    timeline = Timeline(domain, len(events))
    async with bus.watch(KINDS) as heard:
        await publish_all(bus, events)
        timeline.given = now().timestamp()
        end = time.monotonic() + limit
        while not timeline.complete:
            fleet.check()
            if timeline.over:
                raise NoCard(f"no card of {domain}: {timeline.refused}")
            if time.monotonic() > end:
                raise NoCard(f"no card of {domain} within {limit:.0f} s")
            try:
                timeline.take(await heard.get(timeout=1.0))
            except TimeoutError:
                continue
        answer = await client.encode(given.queries[:1], skills=(domain,))
        timeline.answered = now().timestamp()
    applied = {skill.digest for row in answer.rows for skill in row.skills}
    if applied != {timeline.digest}:
        raise NoCard(f"{domain} was answered by {applied or 'the base model'}, not by its card")
    return timeline
