"""The journal by the method of Jepsen's queue test: a storm of faults, then the whole history is
held against the promises."""

from __future__ import annotations

import time
from collections.abc import Callable

from bus import BusError
from tests.torture.journal.check import check
from tests.torture.journal.schedule import Plan
from tests.torture.journal.storm import Storm, rage
from tests.torture.kit import Outcome, Say

__all__ = ["ABOUT", "MINUTES", "outcome", "run"]

MINUTES = 12.0
ABOUT = "durable events while broker, publishers, consumers and watchers are killed and frozen"
RATE, FAULTS = 10_000, 20
"""Events and faults of a minute of storm."""


def run(minutes: float, seed: int, say: Say) -> Outcome:
    """The long form: nine tenths of the time storm, the rest healing, draining and checking."""
    storm = 0.9 * minutes
    plan = Plan(
        seed=seed,
        events=round(RATE * storm),
        faults=round(FAULTS * storm),
        storm=60 * storm,
        visibility=2.0,
        drain=60 * minutes * 0.1 + 30,
        refused=round(storm) + 1,
        killers=2,
        unreadable=2,
    )
    return outcome(plan, say)


def outcome(
    plan: Plan,
    say: Say,
    part: str = "journal",
    rage: Callable[[Plan, Say], Storm] = rage,
) -> Outcome:
    """A storm of that plan, checked."""
    started = time.monotonic()
    try:
        storm = rage(plan, say)
    except (BusError, TimeoutError) as e:  # the journal does not open again, nobody ends in order
        broken = f"the storm ended with {type(e).__name__}: {e}"
        return Outcome(part, plan.seed, time.monotonic() - started, broken=(broken,))
    say("checking")
    verdict = check(storm.history)
    sentences = (*storm.broken, *verdict.broken)
    if not storm.drained:
        late = f"drain: not everything was finished {plan.drain:g} s after the storm"
        sentences = (late, *sentences)
    figures: dict[str, int | float | str] = {
        "events acknowledged": verdict.figures["events acknowledged"],
        "faults": storm.faults.total(),
        "faults by kind": ", ".join(f"{n} {count}" for n, count in sorted(storm.faults.items())),
        "consumers that died of poison": storm.deaths,
        **storm.figures,
        **{kind: verdict.kinds.get(kind, 0) for kind in ("lost", "unexpected", "order", "twice")},
    }
    for name, count in sorted(verdict.figures.items()):
        figures.setdefault(name, count)
    return Outcome(part, plan.seed, time.monotonic() - started, figures, sentences)
