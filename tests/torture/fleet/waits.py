"""What is waited for: that all of a fleet is there, has nothing left to do, holds nothing more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from bus import Bus
from schemas import FleetHeartbeat
from tests.fleet import harness
from tests.torture.fleet.books import Books, read_books
from tests.torture.fleet.findings import Report
from tests.torture.fleet.leaks import leaked
from tests.torture.fleet.memory import Holding, counted

__all__ = ["SETTLED", "alive", "idle", "quiet", "ready"]

SETTLED: Final = 90.0
"""Seconds after the last fault until every process must be ready, and the loop idle."""


async def alive(fleet: harness.Fleet) -> None:
    """Return when the fleet has ended."""
    while fleet.process.poll() is None:
        await asyncio.sleep(0.5)


async def ready(bus: Bus, serving: Sequence[str], report: Report, seconds: float) -> None:
    """Wait until every process says that it is ready."""
    ends = time.monotonic() + seconds
    while True:
        found = {
            "broker" if service == "broker" else f"{service}-{instance}"
            for service, instance in await harness.processes(bus)
        }
        short = {name.removesuffix("-1") for name in found}
        missing = [it for it in serving if it not in found and it.removesuffix("-1") not in short]
        if not missing:
            return
        if time.monotonic() > ends:
            report.breaks(f"{', '.join(missing)} did not come back within {seconds:g} s")
            return


async def idle(bus: Bus, report: Report, seconds: float) -> Books:
    """Wait until the loop has nothing left to do."""
    ends = time.monotonic() + seconds
    while (left := (books := await read_books(bus)).waiting) and time.monotonic() < ends:
        await asyncio.sleep(1.0)
    if left:
        report.breaks(f"{seconds:g} s after the last feedback {left}")
    return books


async def quiet(
    bus: Bus, fleet: harness.Fleet, report: Report, before: dict[str, Holding]
) -> dict[str, Holding]:
    """What every process holds while nobody asks anything."""
    await idle(bus, report, SETTLED)
    ends = time.monotonic() + 75.0  # a child that waits for work leaves after 60 s
    while True:
        found = await asyncio.to_thread(counted, fleet.process.pid)
        busy = await _queues(bus)
        if not busy and not leaked(before, found):
            return found
        if time.monotonic() > ends:
            report.breaks(*(f"{it} in its queue though nobody asks" for it in busy))
            return found


async def _queues(bus: Bus) -> list[str]:
    """Who of those that serve says that something waits."""
    found: dict[str, int] = {}
    async with bus.watch(FleetHeartbeat) as beats:
        ends = time.monotonic() + 2.5
        while (left := ends - time.monotonic()) > 0:
            try:
                beat = (await beats.get(timeout=left)).data
            except TimeoutError:
                break
            if beat.service in ("router", "encoder", "api"):
                found[f"{beat.service}-{beat.instance}"] = beat.queue
    return [f"{name} has {queue}" for name, queue in found.items() if queue]
