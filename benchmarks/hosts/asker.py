"""Clients of a fleet, on a host of their own: asked by lines of JSON, answering so.

`python -m benchmarks.hosts.asker URL [KEY SERVER_KEY]`. `{"span": S, "clients": N, "deadline":
D}` lets N clients ask for S seconds, each again as soon as it is answered; D are the seconds that a
request has. `{}` tells what the encoders say of themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bus import material
from benchmarks.kit.children import answer
from bus import Bus, BusError, connect
from schemas import FleetHeartbeat, address_of
from services.errors import EncodeFailedError, ServiceError
from services.runtime.client import FleetClient

__all__ = ["Order"]

LENGTH = 120
"""Characters of a text."""
QUIET = 5.0
"""Seconds without a heartbeat after which it is noted when one computes again."""
PAUSE = 0.05
"""Seconds before a client asks again whose request has failed."""


class Order(msgspec.Struct, frozen=True):
    """What it is told."""

    span: float = 0.0
    clients: int = 0
    deadline: float = 30.0


class _Asker:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._client = FleetClient(bus)
        self._texts = [text[:LENGTH] for text in material.texts()]
        self._number = itertools.count()
        self.encoders: dict[str, dict[str, Any]] = {}

    async def hear(self) -> None:
        """What encoders say of themselves."""
        async with self._bus.watch(FleetHeartbeat) as beats:
            async for event in beats:
                data = event.data
                if data.service == "encoder":
                    self._note(address_of(event.source), data)

    def _note(self, address: str, data: FleetHeartbeat) -> None:
        moment, texts = time.monotonic(), data.counters.get("texts", 0)
        said = self.encoders.setdefault(address, {"at": moment, "quiet": None, "back": None})
        if moment - said["at"] > QUIET:
            said["quiet"], said["back"] = texts, None
        elif said["quiet"] is not None and said["back"] is None and texts > said["quiet"]:
            said["back"] = moment
        said |= {"at": moment, "state": data.state, "pid": data.pid, "texts": texts}

    async def ask(self, order: Order) -> dict[str, Any]:
        """Let clients ask, and wait for the last answers."""
        began = time.monotonic()
        answers: list[tuple[float, float, str | None]] = []

        async def client() -> None:
            while (at := time.monotonic()) < began + order.span:
                number = next(self._number)
                text = f"{number} {self._texts[number % len(self._texts)]}"
                failed = None
                try:
                    await self._client.encode(
                        [text], route="base", deadline_ms=int(1000 * order.deadline)
                    )
                except EncodeFailedError as error:
                    failed = error.code
                except (BusError, ServiceError) as error:
                    failed = type(error).__name__
                answers.append((at - began, time.monotonic() - at, failed))
                if failed is not None:
                    await asyncio.sleep(PAUSE)

        await asyncio.gather(*(client() for _ in range(order.clients)))
        return {"began": began, "answers": answers}


async def _run(url: str, *keys: str) -> None:
    files = {name: Path(key) for name, key in zip(("key", "server_key"), keys, strict=False)}
    async with await connect(url, source="/asker/1", **files) as bus:
        asker = _Asker(bus)
        hearing = asyncio.create_task(asker.hear())
        answer({})
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = msgspec.json.decode(line, type=Order)
            answer(await asker.ask(order) if order.clients else asker.encoders)
        hearing.cancel()


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
