"""Opening a bus by its URL."""

from __future__ import annotations

import os
from pathlib import Path

from bus.client import ClientBus
from bus.contract import Bus
from bus.errors import InvalidUrl
from bus.memory import MemoryBus

__all__ = ["connect"]


async def connect(
    url: str | None = None,
    *,
    source: str,
    patience: float = 30.0,
    key: Path | None = None,
    server_key: Path | None = None,
) -> Bus:
    """A bus, connected and ready: what is published now is heard, and answers are too.

    `url`: `ipc:///folder`, `tcp://host:5550` or `memory://name`; default: the variable
    `CONSONANCE_BUS`, else the broker of `.consonance` in the working folder. `source`: the name
    of this process on events (`/encoder/2`). `patience`: seconds that the broker may be away.
    `key`, `server_key`: files for tcp, default `CONSONANCE_KEY` and `CONSONANCE_SERVER_KEY`.
    Raises `InvalidUrl`, `InvalidKey`, `InsecureFolder`, `NotPermitted`, `Unreachable`.
    """
    url = url or os.environ.get("CONSONANCE_BUS") or f"ipc://{Path('.consonance/bus').absolute()}"
    bus: ClientBus
    if url.startswith("memory://"):
        bus = MemoryBus(url.removeprefix("memory://"), source=source, patience=patience)
    else:
        raise InvalidUrl(f"{url!r} is no bus: expected ipc:///folder, tcp://host:port or memory://")
    try:
        await bus.open()
    except BaseException:
        await bus.aclose()
        raise
    return bus
