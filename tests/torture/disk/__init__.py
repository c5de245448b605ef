"""Disks that fail: the journal's files damaged before a start, and under a running broker."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from bus.errors import BusError
from tests.torture.disk.cases import Broken, play
from tests.torture.disk.running import FAULTS, NEED_ROOT, can_mount, fail
from tests.torture.kit import Outcome, Say

__all__ = ["ABOUT", "MINUTES", "damaged", "failing", "run"]

MINUTES = 8.0
ABOUT = "the journal's files cut, changed, swapped and removed at random; disks that fill up"

_TOLD = 10.0
"""Seconds between two lines."""


def run(minutes: float, seed: int, say: Say) -> Outcome:
    """A sixth of the time for disks that fail under a broker, the rest for damaged files."""
    started = time.monotonic()
    figures: Counter[str] = Counter()
    broken: list[str] = []
    rounds = failing(started + 10 * minutes, seed, say, figures, broken)
    cases = damaged(started + 60 * minutes, seed, say, figures, broken)
    return Outcome(
        "disk",
        seed,
        time.monotonic() - started,
        {"damaged journals": cases, "disks that failed": rounds, **figures},
        tuple(broken),
    )


def damaged(
    until: float,
    seed: int,
    say: Say,
    figures: Counter[str],
    broken: list[str],
    *,
    count: int | None = None,
    most: int = 200,
) -> int:
    """Play cases until then, `count` at most; how many were played. `most`: see `play`."""
    told = time.monotonic()
    n = 0
    while time.monotonic() < until and n != count:
        name = f"{seed}:{n}"
        n += 1
        try:
            case = play(name, most)
        except Broken as e:
            broken.append(f"case {name}: {e}")
            continue
        except Exception as e:  # a crash is one more broken promise
            broken.append(f"case {name}: {type(e).__name__}: {e}")
            continue
        figures["events acknowledged"] += case.events
        figures["opened with all events"] += not case.refused
        figures["refused in words"] += case.refused
        figures["events kept"] += case.kept
        if time.monotonic() - told > _TOLD:
            told = time.monotonic()
            say(f"{n} damaged journals, {figures['refused in words']} refused")
    return n


def failing(
    until: float,
    seed: int,
    say: Say,
    figures: Counter[str],
    broken: list[str],
    *,
    faults: tuple[str, ...] = (),
) -> int:
    """Let disks fail under brokers until then, or each of `faults` once; how many failed."""
    mounts = can_mount()
    if not mounts:
        say("no right to mount small disks: none of them fills up")
    names = [name for name in faults or FAULTS if mounts or name not in NEED_ROOT]
    n = 0
    while time.monotonic() < until and not (faults and n >= len(names)):
        name = names[n % len(names)]
        place = f"{seed}:running:{n}"
        n += 1
        try:
            found = asyncio.run(fail(name, random.Random(place)))
        except (Broken, BusError, OSError, TimeoutError) as e:
            broken.append(f"{name} ({place}): {type(e).__name__}: {e}")
            continue
        figures["acknowledged while disks failed"] += len(found.acknowledged)
        figures["refused while disks failed"] += found.refused
        say(f"{name}: {found.refused} refused, {found.kept} of {len(found.acknowledged)} kept")
    return n
