"""Three hosts of one fleet, each a node of a network, and a fourth one from which it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

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
from benchmarks.kit.nats import nats_server
from benchmarks.nodes.children import Child
from bus.access.command import made

__all__ = ["HOSTS", "Fleet", "Transport", "opened"]

Transport = Literal["tcp", "nats"]
HOSTS: Final = 3
"""The first has all services, the others an encoder each."""
ASKER: Final = HOSTS
"""The node of the clients."""
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "encoder": {"threads": 1},
    "federation": {"enabled": False},
}
START: Final = 120.0
"""Seconds for an encoder to be ready."""


@dataclass
class Fleet:
    """What runs where."""

    network: Network
    running: RunningFleet
    asker: Child
    url: str
    """Of the bus, as other hosts reach it."""
    folder: Path
    keys: Path | None
    """Folder of the keys; None where the bus needs none."""
    log: Path
    encoders: dict[int, subprocess.Popen[Any]] = field(default_factory=dict)
    """By host; the first one's belongs to the fleet."""

    async def start(self, host: int) -> float:
        """Start the encoder of a host; seconds until it is ready."""
        began = time.monotonic()
        name = f"host-{host}"
        state = self.folder / name
        config = settings_file(state, SETTINGS)
        words = ("--bus", self.url, "--state", str(state), "--config", str(config))
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
        if self.keys is not None:
            file = self.keys / f"{name}.key_secret"
            if not file.exists():
                file = made(self.keys, name, "encoder", [f"/encoder/{name}"])
            environment |= {
                "CONSONANCE_KEY": str(file),
                "CONSONANCE_SERVER_KEY": str(self.keys / "broker.key"),
            }
        with self.log.open("ab") as log:
            self.encoders[host] = self.network.run(
                host,
                (sys.executable, "-m", "services.encoder", *words, "--instance", name),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self.encoders[host]
        while not await self._ready(f"encoder-{name}", process.pid):
            if process.poll() is not None:
                raise FleetFailed(f"the encoder of host {host} ended with {process.returncode}")
            if time.monotonic() > began + START:
                raise FleetFailed(f"the encoder of host {host} is not ready after {START:.0f} s")
            await asyncio.sleep(0.2)
        return time.monotonic() - began

    async def _ready(self, address: str, pid: int) -> bool:
        said = (await self.asker.ask()).get(address, {})
        return said.get("state") == "ready" and said.get("pid") == pid

    def kill(self, host: int) -> None:
        """SIGKILL to all that runs on one of the other hosts."""
        process = self.encoders.pop(host)
        process.kill()
        process.wait()

    async def texts(self) -> dict[str, int]:
        """Texts that each encoder has computed so far, as its last heartbeat said."""
        return {name: said["texts"] for name, said in (await self.asker.ask()).items()}


@asynccontextmanager
async def opened(
    network: Network, folder: Path, transport: Transport, *, model: str | None, log: Path
) -> AsyncIterator[Fleet]:
    """The first host with everything, and the clients; raises `FleetFailed`, `NatsFailed`."""
    state = folder / "fleet"
    config = settings_file(state, SETTINGS)
    async with contextlib.AsyncExitStack() as stack:
        first = network.four(0)
        keys: Path | None = None
        if transport == "nats":
            server = stack.enter_context(
                nats_server(folder / "nats", host=first, port=4222, within=network.command(0, ()))
            )
            bus = url = server.url
        else:
            bus, url, keys = "tcp://0.0.0.0:5550", f"tcp://{first}:5550", state / "keys"
        running = await stack.enter_async_context(
            running_fleet(
                state,
                config=config,
                workers=1,
                model=model,
                bus=bus,
                log=log,
                within=network.command(0, ()),
                variables=dict.fromkeys(THREAD_VARIABLES, "1"),
            )
        )
        words = [url]
        if keys is not None:
            words += [str(made(keys, "asker", "client", [])), str(keys / "broker.key")]
        asker = Child(network, ASKER, "benchmarks.hosts.asker", *words)
        await stack.enter_async_context(asker)
        await background(state)
        yield Fleet(network, running, asker, url, folder, keys, log)
