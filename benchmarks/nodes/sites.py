"""Fleets of one federation, each in a node of a network: made as a person makes them, and run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.kit.child import THREAD_VARIABLES
from benchmarks.kit.fleet import (
    ROOT,
    FleetFailed,
    RunningFleet,
    background,
    running_fleet,
    settings_file,
)
from benchmarks.kit.namespaces import Network
from bus import Bus, connect
from schemas import FleetHeartbeat
from services.runtime.client import FleetClient

__all__ = ["LEARNER", "SETTINGS", "Node", "Site", "lend_background", "names", "opened", "prepare"]

LEARNER: Final = "learner"
COMMANDS: Final = "services.federation.commands"
BORROWED: Final = 180.0
"""Seconds for which the learner's factory is waited for; the others start meanwhile no sooner."""
START: Final = 90.0
"""Seconds until what a process should say after its start has been said."""

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "monitor": {"batch_max_age": 5.0},
    "factory": {"quiet_period": 5.0, "body_schedule": "off"},
    "federation": {"sync_interval": 0.5, "repeat": 1.0},
}
"""Of every fleet: nobody waits for what never comes, and offers travel soon."""


@dataclass(frozen=True)
class Site:
    """A fleet before it runs."""

    name: str
    """Of its node in the federation."""
    state: Path
    config: Path
    public: str
    """Its public key."""


@dataclass
class Node:
    """A fleet that runs, and its bus."""

    site: Site
    number: int
    """Of its node in the network."""
    fleet: RunningFleet
    bus: Bus
    client: FleetClient

    @property
    def name(self) -> str:
        """Of its node in the federation."""
        return self.site.name

    def processes(self) -> dict[str, int]:
        """The numbers of its processes, by what they are; of the supervisor too."""
        found = {"supervisor": self.fleet.process.pid}
        for child in psutil.Process(self.fleet.process.pid).children():
            with contextlib.suppress(psutil.Error):
                found[_role(child.cmdline())] = child.pid
        return found

    def kill(self) -> int:
        """SIGKILL to all that belongs to it, the supervisor first; how many processes."""
        supervisor = psutil.Process(self.fleet.process.pid)
        every = [supervisor, *supervisor.children(recursive=True)]
        for process in every:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return len(every)

    async def restart(self, service: str) -> None:
        """Kill one of its processes, and wait until the supervisor's next one is ready."""
        before = self.processes()[service]
        async with self.bus.watch(FleetHeartbeat) as beats:
            psutil.Process(before).kill()
            async with asyncio.timeout(START):
                async for beat in beats:
                    data = beat.data
                    if (data.service, data.state) == (service, "ready") and data.pid != before:
                        return


def names(count: int) -> list[str]:
    """What the nodes of a federation of so many are called; the first one learns."""
    return [LEARNER, *(f"node{number}" for number in range(1, count))][:count]


async def prepare(
    folder: Path, count: int, settings: Mapping[str, Mapping[str, Any]] = SETTINGS
) -> list[Site]:
    """State folders with keys and certificates; all trust the first one's author, and no other.

    Done by the commands that a person uses. Raises `FleetFailed` where one of them fails.
    """
    authority = folder / "ca"
    await _command("authority", "create", str(authority))
    sites: list[Site] = []
    for name in names(count):
        state = folder / name
        sections = {**settings, "federation": {**settings.get("federation", {}), "node": name}}
        config = settings_file(state, sections)
        words = ("--state", str(state), "--config", str(config))
        key = json.loads(await _command("key", "--json", *words))
        await _command("authority", "issue", str(authority), *words)
        if sites:
            await _command("trust", "add", sites[0].public, LEARNER, "--state", str(state))
        sites.append(Site(name, state, config, key["public"]))
    return sites


@contextlib.asynccontextmanager
async def opened(
    network: Network, site: Site, number: int, *, model: str | None = None, log: Path | None = None
) -> AsyncIterator[Node]:
    """Run a fleet in a node of the network; its bus, of files, is reached from everywhere."""
    async with (
        running_fleet(
            site.state,
            config=site.config,
            workers=1,
            model=model,
            log=log,
            within=network.command(number, ()),
            variables=dict.fromkeys(THREAD_VARIABLES, "1"),
        ) as fleet,
        await connect(fleet.bus, source="/benchmark/1") as bus,
    ):
        yield Node(site, number, fleet, bus, FleetClient(bus, deadline_ms=120_000))


async def lend_background(giver: Site, others: Sequence[Site]) -> None:
    """Give what the first factory embeds at its start to the others: it is the same everywhere."""
    for file in await background(giver.state, BORROWED):  # without it each does it by itself
        for site in others:
            aside = site.state / "factory"
            aside.mkdir(mode=0o700, exist_ok=True)
            (aside / file.name).write_bytes(file.read_bytes())


def _role(words: Sequence[str]) -> str:
    """`router` of `python … services.router …`; `bus` of the broker."""
    for word in words:
        package, _, name = word.partition(".")
        if word == "bus" or (package == "services" and name.isidentifier()):
            return name or word
    return " ".join(words[-2:])


async def _command(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", COMMANDS, *words),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    if process.returncode:
        raise FleetFailed(f"{COMMANDS} {words[0]}: {complained.decode().strip()}")
    return said.decode()
