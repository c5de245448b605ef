"""What a process holds more of than before, and more from minute to minute."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from tests.torture.fleet.domains import DOMAINS
from tests.torture.fleet.memory import Holding, Sample
from tests.torture.fleet.trend import sen

__all__ = ["grown", "leaked"]

POOL: Final = min(32, (os.cpu_count() or 1) + 4)
"""Threads that the loop's own pool makes one by one, and keeps."""
COLLECTOR: Final = Counter({"anon_inode:[eventfd]": 5, "anon_inode:[eventpoll]": 2})
"""What pyzmq opens, once and for good, where a process first sends something large without copying
it: a context of its own, with the thread that lets go of what was sent."""
CONTEXT: Final = "ZMQbg/Reaper"
"""A thread of which each context has one."""
READERS: Final = len(DOMAINS)
"""How often a store is open beside its own connection: a closed reader's file SQLite keeps for the
next one, so as often as once two or three read at the same time, one for each domain."""
MORE_MAPPINGS: Final = 0.1
"""The share by which mappings may be more: the allocator makes and merges them as it likes."""
ARENAS: Final = 2 * 8 * (os.cpu_count() or 1)
"""Mappings that the allocator may make besides, as more threads come to work at the same time, and
keeps: up to eight arenas a core, each of a used and an unused stretch."""
SHORTEST: Final = 20.0
"""Seconds of a life below which nothing is said about its memory."""


def leaked(before: Mapping[str, Holding], after: Mapping[str, Holding]) -> list[str]:
    """A sentence for everything that a process holds more of; by name, as most are new ones."""
    found = []
    for name, then in before.items():
        now = after.get(name)
        if now is None:
            continue
        collects = now.threads[CONTEXT] == then.threads[CONTEXT] + 1 == 2
        allowed = then.files + _kept(now.files - then.files)
        if collects:
            allowed += COLLECTOR
        if now.descriptors > allowed.total():
            more = _listed(now.files - allowed), _listed(now.threads - then.threads)
            found.append(
                f"{name} has {now.descriptors} files open, {then.descriptors} before:"
                f" {more[0]}; and of threads {more[1] or 'none'}"
            )
        if now.running > then.running + POOL:
            more_threads = _listed(now.threads - then.threads)
            found.append(f"{name} has {now.running} threads, {then.running} before: {more_threads}")
        gone = [card for card in now.cards if card.endswith("(deleted)")]
        if gone:
            found.append(f"{name} maps {len(gone)} cards that are deleted")
        cards = sum(now.cards.values()) - sum(then.cards.values())
        mappings = now.mappings - cards
        if mappings > then.mappings * (1 + MORE_MAPPINGS) + 16 + ARENAS:
            found.append(f"{name} has {mappings} mappings, {then.mappings} before")
    return found


def _kept(more: Counter[str]) -> Counter[str]:
    """Of the files that are open besides, those that SQLite keeps."""
    stores = {name: count for name, count in more.items() if name.endswith(".sqlite")}
    return Counter({name: min(READERS, count) for name, count in stores.items()})


def _listed(more: Counter[str]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(more.items()))


def grown(
    lives: Mapping[tuple[str, int], Sequence[Sample]], until: float
) -> tuple[dict[str, int | float | str], list[str]]:
    """Figures of each process's memory, and a sentence for each whose slope is not noise."""
    figures: dict[str, int | float | str] = {}
    broken = []
    for (name, pid), every in sorted(lives.items()):
        samples = [one for one in every if one.at <= until]
        if len(samples) < 6 or samples[-1].at - samples[0].at < SHORTEST:
            continue
        times = [one.at for one in samples]
        held = [one.own for one in samples]
        own = sen(times, held)
        words = (
            f"{own.level / 1e6:.0f} MB, {60 * own.per_second / 1e3:+.0f} kB/min"
            f" ({60 * own.low / 1e3:+.0f} to {60 * own.high / 1e3:+.0f})"
        )
        figures[f"memory of {name}"] = words
        # A step, as of a table that doubles, is in one half; what leaks grows in both.
        middle = len(samples) // 2
        halves = sen(times[:middle], held[:middle]), sen(times[middle:], held[middle:])
        if not any(slope.is_flat for slope in (own, *halves)):
            broken.append(f"the memory of {name} (process {pid}) grows: {words}")
    return figures, broken
