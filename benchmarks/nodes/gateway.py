"""A gateway that tells what it holds: the federation's service on a bus in its own memory.

`python -m benchmarks.nodes.gateway STATE NODE`: STATE is a state folder with certificates. Says
`{"ready": true}`, and for each line on standard input what the process holds then.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bus import Bus, connect
from schemas import PeerJoined, PeerLeft
from services.federation.service import FederationService
from services.runtime import logs
from services.runtime.service import Context
from services.runtime.settings import FederationSettings, Settings
from services.runtime.state import StateFolder

__all__ = ["main"]

INTERVAL = 0.5
"""Seconds between two questions to a peer, and between repetitions of offers."""


def held(state: Path) -> dict[str, int]:
    """What the process holds, by kind."""
    gc.collect()
    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "native_threads": process.num_threads(),
        "tasks": len(asyncio.all_tasks()),
        "descriptors": process.num_fds(),
        "sockets": len(process.net_connections(kind="inet")),
        "files": sum(path.is_file() for path in state.rglob("*")),
        "rss_bytes": process.memory_info().rss,
    }


class _Told:
    """Counts what the bus is told of peers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.joined = self.left = 0

    async def follow(self) -> None:
        """Until cancelled."""
        async with self._bus.watch((PeerJoined, PeerLeft)) as events:
            async for event in events:
                self.joined += isinstance(event.data, PeerJoined)
                self.left += isinstance(event.data, PeerLeft)


async def _run(state: Path, node: str) -> None:
    own = FederationSettings(node=node, sync_interval=INTERVAL, repeat=INTERVAL)
    settings = Settings(federation=own)
    async with await connect("memory://gateway", source="/federation/1") as bus:
        told = _Told(bus)
        following = asyncio.create_task(told.follow())
        service = FederationService(Context(settings, bus, StateFolder(state)))
        await service.setup()
        print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            found: dict[str, Any] = held(state)
            counters = service.counters
            found |= {"peers": counters["peers"], "joined": told.joined, "left": told.left}
            print(json.dumps(found), flush=True)
        following.cancel()
        await service.aclose()


def main(words: Sequence[str]) -> None:
    """Federate until standard input ends."""
    state, node = words
    logs.configure("federation", "1", "error")
    asyncio.run(_run(Path(state), node))


if __name__ == "__main__":
    main(sys.argv[1:])
