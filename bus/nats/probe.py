"""What a fleet wants to know of the servers before it starts."""

from __future__ import annotations

import asyncio

from bus.nats.link import NatsLink
from bus.nats.names import Names, place_of
from bus.nats.server import refused

__all__ = ["doubt", "probe"]

SEVERAL = (2, 10)
"""The first version whose replicas are made equal again when who leads them changes."""


async def probe(url: str, patience: float = 30.0) -> str | None:
    """What of the promises does not hold there, in one sentence; the streams are made.

    Servers that have just started, as after a power cut, need ten seconds and more until they
    agree on who leads, and only then answer. Raises what `bus.connect` raises.
    """
    place = place_of(url)
    link = NatsLink(place, name="probe")
    try:
        await link.open(patience)
        end = asyncio.get_running_loop().time() + patience
        found = await link.server.api(f"STREAM.INFO.{Names(place.fleet).journal}", end)
    finally:
        await link.aclose()
    if found.error is not None:
        raise refused(found.error)
    replicas = found.config.get("num_replicas", 1)
    return doubt(replicas, link.version, place.shown)


def doubt(replicas: int, version: str, shown: str) -> str | None:
    """What may be lost of a journal with so many replicas on servers of that version, if any."""
    if replicas == 1:
        return (
            f"The journal on {shown} has one replica: what it acknowledged may be lost with the"
            " power until the NATS server has flushed it, after its sync_interval (2 minutes where"
            " nobody set it; the server does not tell). Three servers and"
            " CONSONANCE_NATS_REPLICAS=3 keep it."
        )
    numbers = tuple(int(part) for part in version.split("-")[0].split(".") if part.isdecimal())
    if numbers >= SEVERAL:
        return None
    return (
        f"The journal on {shown} has {replicas} replicas, on servers of version {version}: where"
        " servers freeze or are killed, those before"
        f" {'.'.join(map(str, SEVERAL))} may skip events that were acknowledged, and their replicas"
        " differ from then on (docs/how-to/nats.md). Take a current version."
    )
