"""`python -m services.api` over a memory bus: a process of its own that needs no broker."""

from __future__ import annotations

import sys

from services.api.service import ApiService
from services.runtime import main


async def _connect(_url: str, *, source: str) -> main.Bus:
    from bus import MemoryBus

    return await MemoryBus(source=source).__aenter__()


if __name__ == "__main__":
    main.connect = _connect  # type: ignore[assignment]
    main.run(ApiService, sys.argv[1:])
