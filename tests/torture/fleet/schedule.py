"""Which process suffers what, and when: drawn from a seed alone."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["ACTIONS", "SERVING", "SUPERVISOR", "TARGETS", "TRAINING", "Action", "Fault", "plan"]

Action = Literal["kill", "freeze", "restart"]

SERVING: Final = (
    "broker",
    "adapter_manager",
    "router",
    "encoder-1",
    "encoder-2",
    "dissonance_monitor",
    "distiller",
    "factory",
    "federation",
    "api",
)
TRAINING: Final = "training"
"""The factory's child, where it has one."""
SUPERVISOR: Final = "supervisor"

TARGETS: Final = (*SERVING, TRAINING, SUPERVISOR)
ACTIONS: Final[dict[str, tuple[Action, ...]]] = {
    **dict.fromkeys(SERVING, ("kill", "freeze", "restart")),
    TRAINING: ("kill", "freeze"),
    SUPERVISOR: ("freeze",),  # it is killed when all else is over: the fleet ends with it
}

WINDOW: Final = 60.0
MOST_ENDS: Final = 3
"""A process is ended so often within the window: at five the supervisor gives up, by design."""

SHORTEST, LONGEST = 1.0, 15.0
TOGETHER: Final = 0.25
"""The share of the faults that come at the moment of the one before."""


@dataclass(frozen=True)
class Fault:
    """One thing done to one process."""

    at: float
    """Seconds from the beginning of the chaos."""
    action: Action
    """`kill`: SIGKILL; `freeze`: SIGSTOP, then SIGCONT; `restart`: SIGTERM."""
    target: str
    seconds: float = 0.0
    """How long it is frozen."""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.action == "freeze" else ""
        return f"{self.action} {self.target}{lasting}"


def plan(
    seconds: float,
    faults: int,
    seed: int,
    actions: Mapping[str, Sequence[Action]] = ACTIONS,
) -> tuple[Fault, ...]:
    """At least `faults` faults, spread over `seconds`: everything that may be done, in rounds.

    Each round is every action on every target once, in an order of its own; a quarter of them come
    two at once. What would end a process too often within a minute is put off to a later turn.
    """
    chance = random.Random(f"fleet {seed}")
    every = [(action, target) for target, allowed in actions.items() for action in allowed]
    wanted: deque[tuple[Action, str]] = deque()
    while len(wanted) < faults:
        chance.shuffle(every)
        wanted += every
    moments = _moments(seconds, len(wanted), chance)
    ends: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, float] = defaultdict(float)
    made: list[Fault] = []
    for at in moments:
        for _ in range(len(wanted)):
            action, target = wanted.popleft()
            if _is_fit(action, target, at, ends[target], busy[target], made):
                break
            wanted.append((action, target))
        else:
            continue
        lasting = chance.uniform(SHORTEST, LONGEST) if action == "freeze" else 0.0
        if action == "freeze":
            busy[target] = at + lasting
        else:
            ends[target].append(at)
        made.append(Fault(at, action, target, lasting))
    return tuple(made)


def _moments(seconds: float, count: int, chance: random.Random) -> Sequence[float]:
    step, at, found = seconds / count, 0.0, []
    for number in range(count):
        if number and chance.random() >= TOGETHER:
            at = step * (number + chance.random() * 0.8)
        found.append(at)
    return found


def _is_fit(
    action: Action,
    target: str,
    at: float,
    ends: Sequence[float],
    busy: float,
    made: Sequence[Fault],
) -> bool:
    if any(fault.at == at and fault.target == target for fault in made):
        return False
    if action == "freeze":
        return at >= busy
    # What is frozen may be killed; asked to leave, it could not hear it.
    recent = [moment for moment in ends if at - moment < WINDOW]
    return len(recent) < MOST_ENDS and (action == "kill" or at >= busy)
