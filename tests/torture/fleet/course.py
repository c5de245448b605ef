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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.torture.fleet import remains
from tests.torture.fleet.books import faults_of
from tests.torture.fleet.faults import Chaos
from tests.torture.fleet.findings import Report, audit, requests
from tests.torture.fleet.ground import Ground
from tests.torture.fleet.leaks import grown, leaked
from tests.torture.fleet.load import Load
from tests.torture.fleet.memory import Sampler
from tests.torture.fleet.schedule import SUPERVISOR, plan
from tests.torture.fleet.truth import prepare
from tests.torture.fleet.waits import SETTLED, alive, idle, quiet, ready
from tests.torture.kit import Outcome

__all__ = ["ABOUT", "MINUTES", "run", "run_on"]

MINUTES: Final = 12.0
ABOUT: Final = (
    "a fleet that serves and learns while each of its processes is killed, frozen, restarted"
)

PER_MINUTE: Final = 10.0
"""Faults."""
WARM: Final = 0.06
"""Share of the budget; what no phase takes goes to starting, settling and stopping."""
LEAST_WARM: Final = 40.0
"""Seconds without faults, and with a first training, before it is counted what processes hold; so
the whole takes some three minutes at least."""
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
    """The long form; see `tests.torture`."""
    return run_on(Ground(), minutes, seed, say)


def run_on(ground: Ground, minutes: float, seed: int, say: Callable[[str], None]) -> Outcome:
    """The long form of a fleet that stands on `ground`.

    With `KEEP_BROKEN` in the environment the folder of a fleet that broke a promise is kept.
    """
    began = time.monotonic()
    report = Report(say)
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    try:
        with _temporary(folder / "tmp") as temporary, ground.laid(folder):
            _Course(ground, folder, 60 * minutes, seed, report).run(temporary)
    finally:
        if report.broken and os.environ.get("KEEP_BROKEN"):
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    return Outcome(ground.part, seed, seconds, report.figures, tuple(report.broken))


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


@dataclass(frozen=True)
class _Course:
    ground: Ground
    folder: Path
    seconds: float
    """The budget of all of it."""
    seed: int
    report: Report

    def run(self, temporary: Path) -> None:
        """Both fleets, one after the other, and what they leave."""
        report = self.report
        seen: dict[int, float] = {}
        shared: set[str] = set()
        load: Load | None = None
        try:
            with self._fleet() as fleet:
                supervisor = fleet.process.pid
                with Sampler(supervisor) as sampler:
                    load = asyncio.run(self._chaos(fleet, sampler))
                seen |= sampler.seen
                shared |= sampler.shared
                report.say("the supervisor itself is killed")
                os.kill(supervisor, signal.SIGKILL)
                fleet.process.wait()
        except (AssertionError, ExceptionGroup, subprocess.TimeoutExpired) as error:
            # How the harness says that the fleet did not end in order: it was killed, as it should.
            told = load is None and report.broken
            if not told and (load is None or fleet.process.returncode != -signal.SIGKILL):
                report.breaks(f"the fleet ended by itself: {str(error)[-600:]}")
        if load is None:
            return
        report.breaks(*(f"{it} outlived the supervisor" for it in remains.alive(seen)))
        self.ground.lost()
        try:
            with self._fleet() as fleet:
                with Sampler(fleet.process.pid, 1.0) as sampler:
                    asyncio.run(self._again(fleet, load))
                seen = sampler.seen
                shared |= sampler.shared
        except (AssertionError, subprocess.TimeoutExpired) as error:
            report.breaks(f"another start did not go well: {str(error)[-600:]}")
        state = self.folder / "state"
        report.breaks(*(f"{it} outlived the fleet" for it in remains.alive(seen)))
        left = remains.stale(state, temporary, shared)
        report.breaks(*(f"the file {it} is left behind" for it in left))
        report.breaks(*(f"a traceback in {it}" for it in remains.tracebacks(state / "logs")))

    def _fleet(self) -> AbstractContextManager[harness.Fleet]:
        ground = self.ground
        return harness.running(self.folder, *ground.arguments, config=CONFIG + ground.settings)

    async def _chaos(self, fleet: harness.Fleet, sampler: Sampler) -> Load:
        ground, seed, report, say = self.ground, self.seed, self.report, self.report.say
        async with fleet.bus("/torture/0") as bus:
            truth = await prepare(bus, fleet, seed)
            load = Load(fleet, truth, seed)
            say(f"{len(truth.known)} vectors are known; load without faults")
            async with load.running():
                await asyncio.sleep(max(LEAST_WARM, self.seconds * WARM))
            before = await quiet(bus, fleet, report, {})
            async with load.running():
                await self._faults(fleet, load)
                say("no more faults")
                await ready(bus, ground.serving, report, SETTLED)
            books = await idle(bus, report, SETTLED)
            calm = time.monotonic()
            if ground.calm:
                say("calm: load without faults")
                async with load.running():
                    await asyncio.sleep(self.seconds * ground.calm)
                ended = time.monotonic()
                books = await idle(bus, report, SETTLED)
            after = await quiet(bus, fleet, report, before)
            await audit(bus, books, load, report)
            await ground.audit(bus, report)
        report.breaks(*leaked(before, after))
        if ground.calm:
            since = calm + WARMING * (ended - calm)
            figures, growing = grown(sampler.since(since), until=ended)
            report.figures |= figures
            report.breaks(*growing)
        requests(load, truth, report)
        return load

    async def _faults(self, fleet: harness.Fleet, load: Load) -> None:
        """All of them; raises `AssertionError` where the fleet ends meanwhile."""
        ground, report = self.ground, self.report
        seconds = self.seconds * ground.chaos
        faults = max(12, round(PER_MINUTE * seconds / 60))
        schedule = plan(seconds, faults, self.seed, ground.actions)
        chaos = load.chaos = Chaos(fleet.process.pid, report.say)
        watching = asyncio.create_task(alive(fleet))
        striking = asyncio.gather(chaos.run(schedule), ground.shaken(seconds, self.seed, report))
        await asyncio.wait({watching, striking}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            striking.cancel()
            await asyncio.gather(striking, return_exceptions=True)
            report.breaks("the supervisor gave up: " + fleet.log()[-600:])
            raise AssertionError("there is no fleet any more")
        watching.cancel()
        striking.result()
        report.figures |= {
            "faults": sum(chaos.done.values()),
            "killed": chaos.done["kill"],
            "frozen": chaos.done["freeze"],
            "restarted": chaos.done["restart"],
            "faults while another process was frozen": chaos.together,
            "faults that found nobody": len(chaos.missed),
        }

    async def _again(self, fleet: harness.Fleet, load: Load) -> None:
        """The same state once more: it serves what it served, and has lost nothing."""
        truth, report = load.truth, self.report
        async with fleet.bus("/torture/0") as bus:
            await ready(bus, self.ground.serving, report, SETTLED)
            client = FleetClient(bus)
            for name, digests in ((None, ()), *truth.models.named.items()):
                skills = name.split("+") if name else ()
                made = await client.encode(
                    truth.texts,
                    skills=skills,
                    route="named" if name else "base",
                    deadline_ms=60_000,
                )
                rows = [tuple(it.digest for it in row.skills) for row in made.rows]
                wrong = truth.check(truth.texts, rows, np.array(made.vectors))
                if wrong or set(rows) != {digests}:
                    report.breaks(f"after another start, {name or 'base'}: {wrong or rows[0]}")
            books = await idle(bus, report, SETTLED)
            faults = faults_of(books, load.acknowledged, load.attempted)
            report.breaks(*(f"after another start {it}" for it in faults))
            report.say(f"{SUPERVISOR} and all that it kept came back")
