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

from bus import Bus, connect
from schemas import FleetHeartbeat
from services.runtime.client import FleetClient

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0

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
def running(folder: Path, *arguments: str, config: str = "") -> Iterator[Fleet]:
    """Start a fleet below `folder`; stopped in an orderly way at the end, or the test fails."""
    state = folder / "state"
    settings = folder / "settings.toml"
    for section in ("federation", "api"):  # a process more to start, for one test's sake
        if f"[{section}]" not in config:
            config += f"\n[{section}]\nenabled = false\n"
    settings.write_text(config, "utf-8")
    _lend_background(state)
    command = [sys.executable, str(ROOT / "run_all.py"), "--json", "--state", str(state)]
    command += ["--config", str(settings), *arguments]
    with open(folder / "fleet.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment()
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
            _keep_background(state)
    assert code == 0, (folder / "fleet.log").read_text()[-4000:]


def _lend_background(state: Path) -> None:
    (state / "factory").mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    for name, data in _made.items():
        (state / "factory" / name).write_bytes(data)


def _keep_background(state: Path) -> None:
    for file in (state / "factory").glob("background-*.npy"):
        _made.setdefault(file.name, file.read_bytes())


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


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
