"""What a real fleet does on this machine, to hold the simulation against."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import msgspec

from benchmarks.encode.contestant import Contestant, cpu_of, spent
from benchmarks.encode.texts import Texts
from benchmarks.kit.command import Busy
from benchmarks.kit.fleet import background, fresh_state, running_fleet, settings_file
from benchmarks.kit.measure import percentile

__all__ = ["CLIENTS", "Seen", "observed"]

CLIENTS: Final = 64
SETTINGS: Final = {"encoder": {"threads": 1}, "federation": {"enabled": False}}

Say = Callable[[str], None]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A real run, with single texts that it has never seen."""

    encoders: int
    cores: float
    """Of this machine, less what others used meanwhile."""
    texts: float
    """A second, of 64 clients that ask again once they are answered."""
    p50_ms: float
    """Of one client that asks alone, one text after another."""
    request_us: float
    """CPU microseconds of an encoder for a text whose vector it has: all but the forward pass."""


async def observed(encoders: int, texts: Texts, count: int, alone: int, say: Say) -> Seen:
    """Our broker on files, encoders of one thread. Raises `FleetFailed`, `BenchError`."""
    say(f"a real fleet with {encoders} encoder{'s' if encoders > 1 else ''}")
    with fresh_state() as state:
        config = settings_file(state, SETTINGS)
        log = state / "benchmark.log"
        async with running_fleet(
            state / "fleet", config=config, workers=encoders, log=log
        ) as fleet:
            await background(state / "fleet")
            with Contestant("fleet", {"bus": fleet.bus}, log) as clients:
                return await asyncio.to_thread(
                    _measured, clients, fleet.process.pid, encoders, texts, count, alone
                )


def _measured(
    clients: Contestant, fleet: int, encoders: int, texts: Texts, count: int, alone: int
) -> Seen:
    clients.encode(texts.draw(256), "clients", CLIENTS)
    some = texts.draw(count)
    busy = Busy()
    taken = clients.encode(some, "clients", CLIENTS)
    left = (os.cpu_count() or 1) * (1 - busy.others())
    before = cpu_of(fleet)
    for _ in range(2):
        clients.encode(some, "clients", CLIENTS)  # their vectors are held by now
    used = spent(before, cpu_of(fleet))["encoder"]
    single = clients.encode(texts.draw(alone), "single")
    return Seen(
        encoders=encoders,
        cores=left,
        texts=count / taken.seconds,
        p50_ms=1e3 * percentile(single.each, 0.5),
        request_us=1e6 * used / (2 * count),
    )
