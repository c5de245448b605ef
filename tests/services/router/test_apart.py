"""Routers as processes that know of each other by the bus alone, and one that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bus import Bus, connect
from bus.broker import Broker
from schemas import (
    CompletedRow,
    EncodeAssigned,
    EncodeCompleted,
    EncodeFailed,
    EncodeFinished,
    EncodeRequested,
    Event,
    FleetHeartbeat,
    SkillListed,
    SkillListRequested,
)
from services.fleet.bus_beats import prepare
from tests.bus.kit import free_port
from tests.bus.nats_server import NatsServer, nats_binary
from tests.services.encoded import encoded

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(180)


@asynccontextmanager
async def carried(kind: str, folder: Path) -> AsyncIterator[tuple[str, Mapping[str, str]]]:
    """A bus's URL, and the environment in which the fleet's processes can connect."""
    if kind == "tcp":
        url = f"tcp://127.0.0.1:{free_port()}"
        environment = prepare(url, folder)
        async with Broker(url, folder):
            yield url, environment
        return
    nats_binary()
    server = NatsServer(folder)
    server.start()
    try:
        yield server.url, {}
    finally:
        server.stop()


class Town:
    """What routers need around them: a manager without skills, an encoder that does nothing."""

    def __init__(self, url: str, environment: Mapping[str, str], folder: Path) -> None:
        self.url, self.environment, self.folder = url, environment, folder
        self.routers: dict[str, set[str]] = defaultdict(set)
        """By request, who assigned it."""
        self.known: dict[str, int] = {}
        """How many routers each router says there are."""
        self._processes: list[asyncio.subprocess.Process] = []
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def bus(self, source: str) -> Bus:
        files = {name: Path(value) for name, value in self.environment.items()}
        bus = await connect(
            self.url,
            source=source,
            key=files.get("CONSONANCE_KEY"),
            server_key=files.get("CONSONANCE_SERVER_KEY"),
        )
        return await self._stack.enter_async_context(bus)

    async def __aenter__(self) -> Town:
        for source, kinds, hear in (
            ("/adapter_manager/1", SkillListRequested, self._list),
            ("/encoder/1", EncodeAssigned, self._encode),
            ("/fleet/1", FleetHeartbeat, self._note),
        ):
            bus = await self.bus(source)
            events = await self._stack.enter_async_context(bus.watch(kinds))
            self._tasks.append(asyncio.create_task(self._each(bus, events, hear)))
        self._tasks.append(asyncio.create_task(self._beat(await self.bus("/encoder/1"))))
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def router(self, instance: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.router", "--instance", instance),
            *("--bus", self.url, "--state", str(self.folder)),
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stderr=asyncio.subprocess.PIPE,
        )
        self._processes.append(process)
        return process

    async def until(self, holds: Any, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)

    async def _each(self, bus: Bus, events: Any, hear: Any) -> None:
        async for event in events:
            await hear(bus, event)

    async def _note(self, bus: Bus, event: Event[FleetHeartbeat]) -> None:
        beat = event.data
        if beat.service == "router" and beat.state == "ready":
            self.known[beat.instance] = int(beat.counters.get("routers", 0))

    async def _list(self, bus: Bus, event: Event[SkillListRequested]) -> None:
        answer = event.derive(SkillListed(cards=()), source=bus.source, to=event.data.reply_to)
        await bus.publish(answer)

    async def _encode(self, bus: Bus, event: Event[EncodeAssigned]) -> None:
        data = event.data
        self.routers[data.request_id].add(data.router)
        texts = len(data.texts)
        vectors, rows = [np.ones(2, np.float32)] * texts, [CompletedRow()] * texts
        completed, stream = encoded(data.request_id, vectors, rows, "none")
        await bus.publish(
            Event(
                data=completed,
                source=bus.source,
                to=data.reply_to,
                correlation_id=data.request_id,
                attachments=(stream,),
            ),
            event.derive(
                EncodeFinished(request_id=data.request_id, worker="encoder-1"),
                source=bus.source,
                to=data.router,
            ),
        )

    async def _beat(self, bus: Bus) -> None:
        while True:
            beat = FleetHeartbeat(
                service="encoder",
                instance="1",
                pid=1,
                state="ready",
                queue=0,
                rss_bytes=1,
                counters={"pace": 1000},
            )
            await bus.publish(Event(data=beat, source=bus.source))
            await asyncio.sleep(1.0)


async def answered(client: Bus, prefix: str, count: int) -> None:
    """Ask, and again with the same id until there is an answer, as clients do."""

    async def one(number: int) -> None:
        data = EncodeRequested(texts=("a",), route="base", reply_to=client.address)
        event: Event[Any] = Event(data=data, source=client.source, id=f"{prefix}{number}")
        answer = await client.request(event, (EncodeCompleted, EncodeFailed), timeout=30.0)
        assert isinstance(answer.data, EncodeCompleted), answer.data

    await asyncio.gather(*(one(number) for number in range(count)))


@pytest.mark.parametrize("kind", ["tcp", "nats"])
async def test_routers_share_and_a_killed_ones_share_is_taken_over(
    kind: str, tmp_path: Path
) -> None:
    async with (
        carried(kind, tmp_path) as (url, environment),
        Town(url, environment, tmp_path) as town,
    ):
        for instance in ("attic-1", "cellar-1"):
            await town.router(instance)
        await town.until(lambda: town.known == {"attic-1": 2, "cellar-1": 2})
        client = await town.bus("/consonance/1")

        await answered(client, "shared", 24)

        shares = [routers for id, routers in town.routers.items() if id.startswith("shared")]
        assert all(len(routers) == 1 for routers in shares), "nobody takes what is another's"
        assert set().union(*shares) == {"router-attic-1", "router-cellar-1"}

        # One vanishes; and a process comes that bears the other's name.
        town._processes[1].send_signal(signal.SIGKILL)
        twin = await town.router("attic-1")
        await answered(client, "after", 12)

        after = [routers for id, routers in town.routers.items() if id.startswith("after")]
        assert after == [{"router-attic-1"}] * 12
        _, said = await asyncio.wait_for(twin.communicate(), 30)
        assert twin.returncode == 2
        assert b"router-attic-1 is there already, process" in said
        assert town._processes[0].returncode is None
