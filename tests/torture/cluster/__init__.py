"""The bus on three NATS servers by the same method as the journal: a storm of faults, then the
whole history is held against the promises."""

from __future__ import annotations

from tests.torture import journal
from tests.torture.cluster.schedule import ClusterPlan
from tests.torture.cluster.storm import rage
from tests.torture.kit import Outcome, Say

__all__ = ["ABOUT", "MINUTES", "outcome", "run"]

MINUTES = 8.0
ABOUT = "durable events on three NATS servers that are killed, frozen and restarted, two at a time"
RATE, FAULTS = 1_500, 10
"""Events and faults of a minute of storm."""


def run(minutes: float, seed: int, say: Say) -> Outcome:
    """The long form: three quarters of the time storm, the rest healing, draining and checking."""
    storm = 0.75 * minutes
    plan = ClusterPlan(
        seed=seed,
        events=round(RATE * storm),
        faults=round(FAULTS * storm),
        storm=60 * storm,
        visibility=4.0,
        drain=60 * minutes * 0.25 + 60,
        refused=round(storm) + 1,
        killers=2,
        unreadable=2,
        without=(10.0,) * max(1, round(storm / 3)),
    )
    return outcome(plan, say)


def outcome(plan: ClusterPlan, say: Say) -> Outcome:
    """A storm of that plan, checked."""
    return journal.outcome(plan, say, "cluster", rage)
