"""What is to happen to the servers and to who speaks with them, all of it drawn from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.torture.cluster.servers import SERVERS
from tests.torture.journal.history import Fault
from tests.torture.journal.schedule import CONSUMERS, PUBLISHERS, WATCHERS, Plan, Weight

__all__ = ["HOWS", "MAJORITY", "STRIKES", "ClusterPlan", "down_for"]

MAJORITY = "majority"
HOWS = ("kill", "freeze")
"""In which ways two servers are lost at once."""
STRIKES: tuple[Weight, ...] = (
    ("kill", SERVERS, 5),
    ("stop", SERVERS, 2),
    ("freeze", SERVERS, 4),
)
"""What is done to servers, and how often."""
LONGEST = 15.0
"""Seconds that a server is frozen."""
_WEIGHTS: tuple[Weight, ...] = (
    *STRIKES,
    ("kill", tuple(CONSUMERS), 4),
    ("freeze", tuple(CONSUMERS), 3),
    ("kill", PUBLISHERS, 2),
    ("freeze", PUBLISHERS, 1),
    ("kill", WATCHERS, 1),
    ("freeze", WATCHERS, 1),
)


def down_for(kind: str, chance: Random) -> float:
    """Seconds that a server is frozen, or waits until it is started again."""
    if kind == "freeze":
        return LONGEST * chance.choice([0.05, 0.3, 1.0])
    return chance.choice([0.0, 0.5, 3.0])


@dataclass(frozen=True)
class ClusterPlan(Plan):
    """How large a storm on three servers is; everything in seconds."""

    apart: float = 6.0
    """Between two faults of servers, of which at most one is down at a time: the others elect who
    leads, which takes NATS 4 to 9 seconds."""
    servers: bool = True
    """Whether servers are struck one by one, too."""
    without: tuple[float, ...] = (10.0,)
    """How long two servers are down at once, each time; in between all is well for a while."""

    @property
    def weights(self) -> Sequence[Weight]:
        return [each for each in _WEIGHTS if self.servers or each[1] != SERVERS]

    def place(self, target: str) -> str:
        return "servers" if target in SERVERS else target

    def rest(self, target: str) -> float:
        return self.apart if target in SERVERS else super().rest(target)

    def lasts(self, kind: str, target: str, chance: Random) -> float:
        if target not in SERVERS:
            return super().lasts(kind, target, chance)
        return down_for(kind, chance)

    def schedule(self) -> list[Fault]:
        count = len(self.without)
        lost = [
            Fault(MAJORITY, "servers", self.storm * (n + 1) / (count + 1), seconds)
            for n, seconds in enumerate(self.without)
        ]
        return sorted([*super().schedule(), *lost], key=lambda fault: fault.at)
