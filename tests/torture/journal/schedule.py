"""What is to happen, all of it drawn from the seed before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.torture.journal.history import Fault

__all__ = [
    "BROKER",
    "CONSUMERS",
    "DERIVING",
    "GROUPS",
    "PUBLISHERS",
    "WATCHERS",
    "Plan",
    "Weight",
    "poison",
]

BROKER = "broker"
PUBLISHERS = ("pub-1", "pub-2", "pub-3")
"""The third one publishes by ingress; the others by the journal's requests."""
GROUPS = {
    "derive": ("feedback.given",),
    "audit": ("feedback.given", "domain.forget"),
    "chain": ("learning.batch_rejected",),
}
DERIVING = "derive"
CONSUMERS = {
    "derive-1": "derive",
    "derive-2": "derive",
    "audit-1": "audit",
    "audit-2": "audit",
    "chain-1": "chain",
}
WATCHERS = ("watch-1", "watch-2")

Weight = tuple[str, tuple[str, ...], int]
_WEIGHTS: tuple[Weight, ...] = (
    ("kill", (BROKER,), 4),
    ("stop", (BROKER,), 1),
    ("freeze", (BROKER,), 2),
    ("kill", tuple(CONSUMERS), 7),
    ("freeze", tuple(CONSUMERS), 6),
    ("kill", PUBLISHERS, 3),
    ("freeze", PUBLISHERS, 1),
    ("kill", WATCHERS, 1),
    ("freeze", WATCHERS, 2),
)
LONG = 7.5
"""Seconds of a long freeze: ZeroMQ gives up a peer that is silent for 6."""


@dataclass(frozen=True)
class Plan:
    """How large a storm is; everything in seconds."""

    seed: int
    events: int
    """To be published, by all publishers together."""
    faults: int
    storm: float
    """In which the events are published and the faults done."""
    visibility: float
    drain: float
    """What healing and draining may take."""
    refused: int
    """Events whose handlers always refuse them."""
    killers: int
    """Events which kill whoever handles them."""
    unreadable: int
    """Events which nobody can decode, put into the journal while the broker is down."""
    free_lapses: int = 2
    deliveries: int = 5
    grace: float | None = None
    """For the broker's leases after its restart; None: its own."""

    def schedule(self) -> list[Fault]:
        """The faults in order; a process that is down or frozen is left alone meanwhile."""
        chance = Random(f"{self.seed} faults")
        kinds = [(kind, targets) for kind, targets, weight in self.weights for _ in range(weight)]
        step = self.storm / (self.faults + 1)
        free: dict[str, float] = {}
        made: list[Fault] = []
        for n in range(self.faults):
            at = step * (n + 0.5 + chance.random() / 2)
            while True:
                kind, targets = chance.choice(kinds)
                target = chance.choice(targets)
                if free.get(self.place(target), 0.0) <= at:
                    break
            lasts = self.lasts(kind, target, chance)
            free[self.place(target)] = at + lasts + self.rest(target)
            made.append(Fault(kind, target, at, lasts))
        return made

    @property
    def weights(self) -> Sequence[Weight]:
        """What is done to whom, and how often."""
        return _WEIGHTS

    def place(self, target: str) -> str:
        """Of those with the same one only one is struck at a time."""
        return target

    def rest(self, target: str) -> float:
        """Seconds that it runs at least before it is struck again."""
        return 0.2

    def lasts(self, kind: str, target: str, chance: Random) -> float:
        if kind != "freeze":
            return chance.choice([0.0, 0.1, 0.5]) * min(1.0, self.visibility)
        if chance.random() < 0.1 and self.storm > 10 * LONG:
            return LONG
        if target == BROKER and chance.random() < 0.5:
            return self.visibility * 0.3
        return self.visibility * (1.1 + chance.random())

    def quota(self) -> int:
        """Events of each publisher."""
        return -(-self.events // len(PUBLISHERS))

    def poisons(self, name: str) -> dict[int, str]:
        """Which of a publisher's events are poison, and of what kind: the first third of them."""
        chance = Random(f"{self.seed} poison")
        kinds = ["refuse"] * self.refused + ["kill"] * self.killers
        numbers = chance.sample(range(1, max(self.events // 3, len(kinds) + 1)), len(kinds))
        places = {place: kind for place, kind in zip(numbers, kinds, strict=True)}
        mine = PUBLISHERS.index(name)
        share = len(PUBLISHERS)
        return {n // share + 1: kind for n, kind in places.items() if n % share == mine}


def poison(plan: Plan) -> dict[str, str]:
    """By id, what the dead letter's reason must contain."""
    reasons = {"refuse": "always refused", "kill": "the lease ran out"}
    return {
        f"{name}:{n}": reasons[kind]
        for name in PUBLISHERS
        for n, kind in plan.poisons(name).items()
    }
