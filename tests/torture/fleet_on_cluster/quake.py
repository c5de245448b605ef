"""What the servers suffer meanwhile: one at a time, and now and then two at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from tests.torture.cluster.schedule import HOWS, MAJORITY, STRIKES, ClusterPlan, down_for
from tests.torture.cluster.servers import SERVERS, Cluster
from tests.torture.journal.history import Fault

__all__ = ["Quake", "plan"]

BETWEEN: Final = (0.0, 16.0)
"""Seconds that nothing happens to servers, beside those that they rest anyway: from, to."""
WITHOUT_EVERY: Final = 120.0
"""Seconds of the storm for which two servers are down once."""
WITHOUT: Final = 10.0
"""Seconds that they are."""


def plan(seconds: float, seed: int) -> list[Fault]:
    """What happens when, in the order of time, one thing at a time; a majority is lost at least
    once."""
    chance = Random(f"{seed} quake")
    lost = max(1, round(seconds / WITHOUT_EVERY))
    kinds = [(kind, targets) for kind, targets, weight in STRIKES for _ in range(weight)]
    made: list[Fault] = []
    at = chance.uniform(*BETWEEN)
    while at < seconds:
        kind, targets = chance.choice(kinds)
        fault = Fault(kind, chance.choice(targets), at, down_for(kind, chance))
        so_far = sum(one.kind == MAJORITY for one in made)
        if at >= seconds * (so_far + 1) / (lost + 1):
            fault = Fault(MAJORITY, "servers", at, WITHOUT)
        made.append(fault)
        at += fault.lasts + ClusterPlan.apart + chance.uniform(*BETWEEN)
    return made


class Quake:
    """Strikes the servers, and lets each be well again before the next."""

    def __init__(self, servers: Cluster, seed: int, say: Callable[[str], None]) -> None:
        self._servers = servers
        self._chance = Random(f"{seed} servers")
        self._say = say
        self.done: Counter[str] = Counter()
        self.died: list[str] = []
        """Servers that ended though nobody struck them."""

    async def run(self, faults: Sequence[Fault], apart: float = ClusterPlan.apart) -> None:
        """Return when the last one is over, and all servers take connections again."""
        began = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
            self._look()
            await self._strike(fault)
            await asyncio.sleep(apart)
        self._look()

    async def _strike(self, fault: Fault) -> None:
        if fault.kind == MAJORITY:
            how, down = self._chance.choice(HOWS), self._chance.sample(SERVERS, 2)
        else:
            how, down = fault.kind, [fault.target]
        what = f"{how} {' and '.join(down)} for {fault.lasts:g} s"
        self._say(f"servers: {what}")
        self.done[f"two servers: {how}" if fault.kind == MAJORITY else how] += 1
        servers = self._servers
        try:
            for name in down:
                if how == "freeze":
                    await asyncio.to_thread(servers.freeze, name)
                else:
                    await asyncio.to_thread(servers.end, name, kill=how == "kill")
            await asyncio.sleep(fault.lasts)
        finally:
            for name in down:
                if how == "freeze":
                    servers.thaw(name)
                else:
                    await asyncio.to_thread(servers.start, name)

    def _look(self) -> None:
        for name in self._servers.died():
            self.died.append(name)
            self._servers.end(name, kill=True)
            self._servers.start(name)
