"""A real fleet as a person starts it: run_all.py in its own process, spoken to over the bus."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bus import Bus, connect
from lora.model import find_model
from lora.training.background import background_digest
from schemas import FleetHeartbeat
from services.runtime.client import FleetClient

ROOT = Path(__file__).resolve().parents[2]
DIM = 384
"""Numbers in a vector of the default model, which all these fleets serve."""

_made: dict[str, bytes] = {}
"""What the first fleet's factory embedded for ten seconds: the others need not do it again."""


@dataclass
class Fleet:
    """A running fleet: its bus, its state folder, and the supervisor's process."""

    url: str
    state: Path
    process: subprocess.Popen[str]
    api: str | None = None
    """Where the API answers, in a fleet whose settings have a section `[api]`."""

    @asynccontextmanager
    async def bus(self, source: str = "/test/1", **options: Any) -> AsyncIterator[Bus]:
        bus = await connect(self.url, source=source, **options)
        async with bus:
            yield bus

    @asynccontextmanager
    async def client(self, source: str = "/test/1") -> AsyncIterator[FleetClient]:
        async with self.bus(source) as bus:
            yield FleetClient(bus)

    def log(self) -> str:
        return (self.state.parent / "fleet.log").read_text("utf-8", errors="replace")


@contextmanager
def running(
    folder: Path, *arguments: str, config: str = "", learns: bool = True, covers: bool = True
) -> Iterator[Fleet]:
    """Start a fleet below `folder`; stopped in an orderly way at the end, or the test fails.

    One that need not learn is spared what its factory would embed first, for ten seconds; one whose
    code runs in another fleet, too, need not be slowed by what measures coverage.
    """
    state = folder / "state"
    settings = folder / "settings.toml"
    for section in ("federation", "api"):  # a process more to start, for one test's sake
        if f"[{section}]" not in config:
            config += f"\n[{section}]\nenabled = false\n"
    if "[encoder]" not in config:  # threads of one operation wait for each other by turning round
        config += "\n[encoder]\nthreads = 1\n"
    settings.write_text(config, "utf-8")
    _lend_background(state, learns)
    command = [sys.executable, str(ROOT / "run_all.py"), "--json", "--state", str(state)]
    command += ["--config", str(settings), *arguments]
    with open(folder / "fleet.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(covers),
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the fleet did not start:\n{(folder / 'fleet.log').read_text()[-4000:]}"
        said = json.loads(line)
        yield Fleet(url=said["bus"], state=state, process=process, api=said["api"])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
            if learns:
                _keep_background(state)
    assert code == 0, (folder / "fleet.log").read_text()[-4000:]


def _lend_background(state: Path, learns: bool) -> None:
    place = state / "factory"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    if learns:
        for name, data in _made.items():
            (place / name).write_bytes(data)
    else:
        questions = background_digest().removeprefix("sha256:")[:16]
        name = f"background-{find_model().base_model.sha256}-{questions}.npy"
        np.save(place / name, np.eye(1, DIM, dtype=np.float32))


def _keep_background(state: Path) -> None:
    for file in (state / "factory").glob("background-*.npy"):
        _made.setdefault(file.name, file.read_bytes())


def environment(covers: bool) -> dict[str, str]:
    """What a process of a test finds around it, with or without what has its coverage measured."""
    kept = {n: value for n, value in os.environ.items() if covers or not n.startswith("COVERAGE")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


async def processes(bus: Bus, *, fresh_after: float = 0.0) -> dict[tuple[str, str], int]:
    """Pid of every process that says `ready`, heard over one round of heartbeats."""
    found: dict[tuple[str, str], int] = {}
    async with bus.watch(FleetHeartbeat) as beats:
        ends = asyncio.get_running_loop().time() + 3.0
        while (left := ends - asyncio.get_running_loop().time()) > 0:
            try:
                beat = await beats.get(timeout=left)
            except TimeoutError:
                break
            if beat.data.state == "ready":
                found[beat.data.service, beat.data.instance] = beat.data.pid
    return found


async def until(
    holds: Callable[[], Awaitable[bool]], *, seconds: float, every: float = 0.25, what: str
) -> None:
    """Wait for a condition, asked again and again, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not await holds():
                await asyncio.sleep(every)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:.0f} s: {what}") from None
