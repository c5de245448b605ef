"""Ten times what a fleet can sustain, from a thousand clients, some of which behave badly."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from tests.bus.kit import short_folder
from tests.fleet.harness import running
from tests.torture.kit import Outcome, Say
from tests.torture.overload.memory import Memory
from tests.torture.overload.promises import broken, figures
from tests.torture.overload.scenario import Size, overload

__all__ = ["ABOUT", "MINUTES", "run"]

MINUTES: float = 3.0
ABOUT: str = (
    "ten times the sustainable rate from 1,000 clients, with bad listeners and odd requests"
)

AROUND: Final = 90.0
"""Seconds of the budget for starting, measuring, recovering and stopping."""


def run(minutes: float, seed: int, say: Say) -> Outcome:
    """A fleet of its own with two encoders; most of the time is the flood."""
    started = time.monotonic()
    size = Size(seconds=max(60 * minutes - AROUND, 5.0))
    with short_folder() as folder, running(folder) as fleet, Memory(fleet.process.pid) as memory:
        say("the fleet is ready")
        found = asyncio.run(overload(fleet.url, memory, size, seed, say))
        grown, pids = memory.grown(), dict(memory.pids)
    return Outcome(
        part="overload",
        seed=seed,
        seconds=time.monotonic() - started,
        figures=figures(found, grown, size.clients),
        broken=tuple(broken(found, grown, pids, size.clients)),
    )
