"""From a fresh fleet through the chaos to an empty process table."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from bus import Bus
from schemas import FleetHeartbeat
from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.torture.fleet import remains
from tests.torture.fleet.books import Books, faults_of, read_books
from tests.torture.fleet.faults import Chaos
from tests.torture.fleet.findings import Report, audit, requests
from tests.torture.fleet.leaks import grown, leaked
from tests.torture.fleet.load import Load
from tests.torture.fleet.memory import Holding, Sampler, counted
from tests.torture.fleet.schedule import SERVING, SUPERVISOR, plan
from tests.torture.fleet.truth import prepare
from tests.torture.kit import Outcome

__all__ = ["ABOUT", "MINUTES", "run"]

MINUTES: Final = 12.0
ABOUT: Final = (
    "a fleet that serves and learns while each of its processes is killed, frozen, restarted"
)

PER_MINUTE: Final = 10.0
"""Faults."""
WARM, CHAOS, CALM = 0.06, 0.5, 0.31
"""Shares of the budget; the rest goes to starting, settling and stopping."""
LEAST_WARM: Final = 40.0
"""Seconds without faults, and with a first training, before it is counted what processes hold; so
the whole takes some three minutes at least."""
SETTLED: Final = 90.0
"""Seconds after the last fault until every process must be ready, and the loop idle."""
WARMING: Final = 0.5
"""The share of the calm that is not measured: what was started anew fills its caches first."""

CONFIG: Final = """
[encoder]
cache_entries = 400
batch_tokens = 256
[router]
cache_entries = 400
[monitor]
batch_max_age = 8.0
[factory]
body_schedule = "off"
head_time_budget = 3.0
[federation]
enabled = true
discovery = false
[api]
"""
"""Small caches and passes: they have what they will have before anything is measured. Heads alone
are trained. Other fleets of this machine are not looked for: what they hold open here comes and
goes as they do."""


def run(minutes: float, seed: int, say: Callable[[str], None]) -> Outcome:
    """The long form; see `tests.torture`.

    With `KEEP_BROKEN` in the environment the folder of a fleet that broke a promise is kept.
    """
    began = time.monotonic()
    report = Report(say)
    seconds = minutes * 60
    faults = max(12, round(PER_MINUTE * minutes * CHAOS))
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    try:
        with _temporary(folder / "tmp") as temporary:
            _whole(folder, temporary, seconds, faults, seed, report)
    finally:
        if report.broken and os.environ.get("KEEP_BROKEN"):
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return Outcome("fleet", seed, time.monotonic() - began, report.figures, tuple(report.broken))


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """What the fleet takes for the folder of temporary files."""
    folder.mkdir()
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _whole(
    folder: Path, temporary: Path, seconds: float, faults: int, seed: int, report: Report
) -> None:
    seen: dict[int, float] = {}
    shared: set[str] = set()
    load: Load | None = None
    try:
        with harness.running(folder, "--workers", "2", config=CONFIG) as fleet:
            supervisor = fleet.process.pid
            with Sampler(supervisor) as sampler:
                load = asyncio.run(_chaos(fleet, sampler, seconds, faults, seed, report))
            seen |= sampler.seen
            shared |= sampler.shared
            report.say("the supervisor itself is killed")
            os.kill(supervisor, signal.SIGKILL)
            fleet.process.wait()
    except (AssertionError, ExceptionGroup, subprocess.TimeoutExpired) as error:
        # How the harness says that the fleet did not end in order: it was killed, as it should be.
        told = load is None and report.broken
        if not told and (load is None or fleet.process.returncode != -signal.SIGKILL):
            report.breaks(f"the fleet ended by itself: {str(error)[-600:]}")
    if load is None:
        return
    report.breaks(*(f"{it} outlived the supervisor" for it in remains.alive(seen)))
    try:
        with harness.running(folder, "--workers", "2", config=CONFIG) as fleet:
            with Sampler(fleet.process.pid, 1.0) as sampler:
                asyncio.run(_again(fleet, load, report))
            seen = sampler.seen
            shared |= sampler.shared
    except (AssertionError, subprocess.TimeoutExpired) as error:
        report.breaks(f"another start did not go well: {str(error)[-600:]}")
    report.breaks(*(f"{it} outlived the fleet" for it in remains.alive(seen)))
    left = remains.stale(folder / "state", temporary, shared)
    report.breaks(*(f"the file {it} is left behind" for it in left))
    report.breaks(*(f"a traceback in {it}" for it in remains.tracebacks(folder / "state" / "logs")))


async def _chaos(
    fleet: harness.Fleet,
    sampler: Sampler,
    seconds: float,
    faults: int,
    seed: int,
    report: Report,
) -> Load:
    say = report.say
    async with fleet.bus("/torture/0") as bus:
        truth = await prepare(bus, fleet, seed)
        load = Load(fleet, truth, seed)
        say(f"{len(truth.known)} vectors are known; load without faults")
        async with load.running():
            await asyncio.sleep(max(LEAST_WARM, seconds * WARM))
        before = await _quiet(bus, fleet, report, {})
        schedule = plan(seconds * CHAOS, faults, seed)
        chaos = load.chaos = Chaos(fleet.process.pid, say)
        async with load.running():
            watching = asyncio.create_task(_alive(fleet))
            striking = asyncio.create_task(chaos.run(schedule))
            await asyncio.wait({watching, striking}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                striking.cancel()
                await asyncio.gather(striking, return_exceptions=True)
                report.breaks("the supervisor gave up: " + fleet.log()[-600:])
                raise AssertionError("there is no fleet any more")
            watching.cancel()
            striking.result()
            say("no more faults")
            await _ready(bus, report, SETTLED)
        report.figures |= {
            "faults": sum(chaos.done.values()),
            "killed": chaos.done["kill"],
            "frozen": chaos.done["freeze"],
            "restarted": chaos.done["restart"],
            "faults while another process was frozen": chaos.together,
            "faults that found nobody": len(chaos.missed),
        }
        books = await _idle(bus, report, SETTLED)
        say("calm: load without faults")
        calm = time.monotonic()
        async with load.running():
            await asyncio.sleep(seconds * CALM)
        ended = time.monotonic()
        books = await _idle(bus, report, SETTLED)
        after = await _quiet(bus, fleet, report, before)
        await audit(bus, books, load, report)
    report.breaks(*leaked(before, after))
    since = calm + WARMING * (ended - calm)
    figures, growing = grown(sampler.since(since), until=ended)
    report.figures |= figures
    report.breaks(*growing)
    requests(load, truth, report)
    return load


async def _alive(fleet: harness.Fleet) -> None:
    """Return when the fleet has ended."""
    while fleet.process.poll() is None:
        await asyncio.sleep(0.5)


async def _ready(bus: Bus, report: Report, seconds: float) -> None:
    """Wait until every process says that it is ready."""
    ends = time.monotonic() + seconds
    while True:
        found = {
            "broker" if service == "broker" else f"{service}-{instance}"
            for service, instance in await harness.processes(bus)
        }
        short = {name.removesuffix("-1") for name in found}
        missing = [it for it in SERVING if it not in found and it.removesuffix("-1") not in short]
        if not missing:
            return
        if time.monotonic() > ends:
            report.breaks(f"{', '.join(missing)} did not come back within {seconds:g} s")
            return


async def _idle(bus: Bus, report: Report, seconds: float) -> Books:
    """Wait until the loop has nothing left to do."""
    ends = time.monotonic() + seconds
    while (left := (books := await read_books(bus)).waiting) and time.monotonic() < ends:
        await asyncio.sleep(1.0)
    if left:
        report.breaks(f"{seconds:g} s after the last feedback {left}")
    return books


async def _quiet(
    bus: Bus, fleet: harness.Fleet, report: Report, before: dict[str, Holding]
) -> dict[str, Holding]:
    """What every process holds while nobody asks anything."""
    await _idle(bus, report, SETTLED)
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


async def _again(fleet: harness.Fleet, load: Load, report: Report) -> None:
    """The same state once more: it serves what it served, and has lost nothing."""
    truth = load.truth
    async with fleet.bus("/torture/0") as bus:
        await _ready(bus, report, SETTLED)
        client = FleetClient(bus)
        for name, digests in ((None, ()), *truth.models.named.items()):
            skills = name.split("+") if name else ()
            made = await client.encode(
                truth.texts, skills=skills, route="named" if name else "base", deadline_ms=60_000
            )
            rows = [tuple(it.digest for it in row.skills) for row in made.rows]
            wrong = truth.check(truth.texts, rows, np.array(made.vectors))
            if wrong or set(rows) != {digests}:
                report.breaks(f"after another start, {name or 'base'}: {wrong or rows[0]}")
        books = await _idle(bus, report, SETTLED)
        report.breaks(
            *(
                f"after another start {it}"
                for it in faults_of(books, load.acknowledged, load.attempted)
            )
        )
        report.say(f"{SUPERVISOR} and all that it kept came back")
