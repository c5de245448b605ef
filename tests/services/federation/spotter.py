"""Runs a discovery in a process of its own and prints what it tells, a JSON object a line.

    spotter.py NODE FINGERPRINT PORT outside|loopback

Ends in order with its standard input. Not a test: `test_namespaces.py` runs it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import structlog
import zeroconf._core

from services.federation import discovery, neighbours
from services.federation.discovery import Discovery


def say(what: str, told: Any) -> None:
    print(json.dumps({what: told}), flush=True)


async def main(node: str, fingerprint: str, port: str, where: str) -> None:
    for module, name, value in (
        (discovery, "TICK", 0.1),
        (discovery, "SETTLE", 0.2),
        (discovery, "RETRY", 0.5),
        (neighbours, "PAUSE", 0.1),
        (zeroconf._core, "_REGISTER_TIME", 30),
    ):
        setattr(module, name, value)
    spotter = Discovery(
        node,
        fingerprint,
        int(port),
        tls=False,
        loopback=where == "loopback",
        found=lambda sighting: say("found", [sighting.node, sighting.port, *sighting.addresses]),
        lost=lambda name: say("lost", name),
        log=structlog.get_logger(),
        ttl=2,
    )
    await spotter.start()
    say("started", node)
    await asyncio.to_thread(sys.stdin.read)
    await spotter.aclose()


asyncio.run(main(*sys.argv[1:]))
