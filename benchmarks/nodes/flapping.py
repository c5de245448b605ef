"""Peers that go down and come up every second: what does the gateway beside them keep of it?"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.kit.namespaces import Network
from benchmarks.nodes.children import Child
from services.federation.authority import create_authority, issue

__all__ = ["ALLOWED", "Flapping", "flapping", "leaks"]

HALF: Final = 0.5
"""Seconds down, and seconds up, of each turn."""

WARM: Final = 6.0
"""Seconds of it before the first count: threads and libraries are there then."""

SETTLED: Final = 150.0
"""Seconds until all should be as it was: a peer that was long away is asked once a minute."""

STEADY: Final = 3.0
"""Seconds over which all is as it was before that is believed."""

ALLOWED: Final[dict[str, int]] = {
    "threads": 4,
    "native_threads": 6,
    "tasks": 2,
    "descriptors": 6,
    "sockets": 4,
    "files": 0,
    "rss_bytes": 16 << 20,
}
"""How much more of each may be held afterwards; a leak at every turn is more."""

WATCHED, LINKED, STARTED = "watched", "linked", "started"
Say = Callable[[str], None]
Counts = Mapping[str, int]


@dataclass
class Flapping:
    """What a gateway held before and after."""

    seconds: float
    """For how long a peer's link, and another peer's process, went down and up."""
    links: int = 0
    """Times that the link went down."""
    processes: int = 0
    """Times that the process was killed."""
    before: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    """While it went on."""
    after: dict[str, int] = field(default_factory=dict)
    settled_s: float | None = None
    """Until all was as before; None: it never was."""


def leaks(found: Flapping) -> list[str]:
    """What was kept that should not have been, and who is not back."""
    missed = [
        f"flapping: {found.after[kind] - found.before[kind]:+,} {kind}, {allowed:,} are allowed"
        for kind, allowed in ALLOWED.items()
        if found.after[kind] > found.before[kind] + allowed
    ]
    if found.after["peers"] < 2:
        missed.append(f"flapping: {2 - found.after['peers']} of 2 peers did not come back")
    return missed


async def flapping(seconds: float, say: Say) -> Flapping:
    """Node 0 is watched, node 1's link flaps, node 2's process is killed and started anew."""
    found = Flapping(seconds)
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consonance-")))
        network = stack.enter_context(Network(3))
        create_authority(folder / "authority", "benchmark")
        children = []
        for number, name in enumerate((WATCHED, LINKED, STARTED)):
            state = folder / name
            state.mkdir(mode=0o700)
            issue(folder / "authority", name, state / "keys" / "tls")
            child = Child(network, number, "benchmarks.nodes.gateway", state, name)
            children.append(await stack.enter_async_context(child))
        watched, _, started = children
        say("a gateway and two peers: meeting")
        await _both_here(watched, SETTLED)
        await _flap(found, network, watched, started, WARM, say)
        await _both_here(watched, SETTLED)
        found.before = await watched.ask()
        found.links = found.processes = 0
        await _flap(found, network, watched, started, seconds, say)
        await _settle(found, watched, say)
    return found


async def _flap(
    found: Flapping, network: Network, watched: Child, started: Child, seconds: float, say: Say
) -> None:
    ends = time.monotonic() + seconds

    async def link() -> None:
        while time.monotonic() < ends:
            network.cut(1)
            found.links += 1
            await asyncio.sleep(HALF)
            network.mend(1)
            await asyncio.sleep(HALF)

    async def process() -> None:
        while time.monotonic() < ends:
            await started.kill()
            found.processes += 1
            await asyncio.sleep(HALF)
            await started.start()
            await asyncio.sleep(HALF)

    async def look() -> None:
        while time.monotonic() < ends:
            now = await watched.ask()
            found.most = {kind: max(now[kind], found.most.get(kind, 0)) for kind in now}
            left = ends - time.monotonic()
            say(f"flapping: {left:.0f} s left, {now['joined']} joined, {now['left']} left")
            await asyncio.sleep(1.0)

    try:
        async with asyncio.TaskGroup() as group:
            for work in (link, process, look):
                group.create_task(work())
    except ExceptionGroup as failed:  # the others were cancelled
        raise failed.exceptions[0] from None


async def _both_here(watched: Child, limit: float) -> bool:
    ends = time.monotonic() + limit
    while (await watched.ask())["peers"] < 2:
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(0.2)
    return True


async def _settle(found: Flapping, watched: Child, say: Say) -> None:
    """Wait until all is as it was, and stays so; keeps the last count where it never is."""
    began, since = time.monotonic(), None
    while (now := time.monotonic()) < began + SETTLED:
        found.after = await watched.ask()
        if leaks(found):
            since = None
            say(f"flapping is over: settling since {now - began:.0f} s")
        elif since is None:
            since = now
        elif now - since >= STEADY:
            found.settled_s = since - began
            return
        await asyncio.sleep(0.5)
