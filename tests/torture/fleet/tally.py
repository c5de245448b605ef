"""What became of the requests: judged one by one, as their clients saw it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

__all__ = ["GRACE", "Lag", "Request", "Tally"]

GRACE: Final = 1.0
"""Seconds after its deadline within which a request must have ended."""

PATIENT: Final = 45.0
"""Seconds of a deadline from which on a client must see latency, never an error."""

ENDINGS: Final = frozenset({"deadline", "timeout", "overloaded", "away", "gave up"})
"""How a hurried request may end instead of being answered."""


@dataclass(frozen=True)
class Request:
    """One request, over."""

    kind: str
    """`bus auto`, `http named`: how it was asked."""
    deadline: float
    """Seconds that it was given."""
    took: float
    lag: float
    """Seconds by which this process itself was late meanwhile."""
    ending: str
    """`answered`, one of `ENDINGS`, or what else was told."""
    wrong: str = ""
    """What is wrong with the answer."""
    excused: bool = False
    """Whether the connection itself was the one that was struck."""


@dataclass
class Tally:
    """Counts, and a sentence for each request that ended as none may."""

    endings: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    longest: float = 0.0
    latest: float = -1e9
    """Seconds after its deadline at which the latest request ended; negative: before it."""
    texts: int = 0
    patient: int = 0

    def take(self, request: Request) -> None:
        """Judge a request that is over."""
        self.endings[request.ending] += 1
        self.longest = max(self.longest, request.took)
        late = request.took - request.deadline - request.lag
        self.latest = max(self.latest, late)
        patient = request.deadline >= PATIENT and not request.excused
        self.patient += patient
        what = f"a request ({request.kind}, {request.deadline:g} s)"
        if request.wrong:
            self.broken.append(f"{what} was answered wrongly: {request.wrong}")
        if late > GRACE:
            self.broken.append(f"{what} ended {late:.1f} s after its deadline: {request.ending}")
        if request.ending == "answered":
            return
        if request.ending not in ENDINGS:
            self.broken.append(f"{what} ended after {request.took:.1f} s: {request.ending}")
        elif patient:
            self.broken.append(
                f"{what} was not answered but ended after {request.took:.1f} s: {request.ending}"
            )


class Lag:
    """By how much this process's own loop is late: what it measures of others is late by that."""

    STEP: Final = 0.05

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self.most = 0.0

    async def run(self) -> None:
        """Note every moment at which the loop came late."""
        while True:
            due = time.monotonic() + self.STEP
            await asyncio.sleep(self.STEP)
            late = time.monotonic() - due
            if late > self.STEP:
                self._late.append((time.monotonic(), late))
                self.most = max(self.most, late)

    def since(self, moment: float) -> float:
        """Seconds by which it was late since then, summed."""
        found = 0.0
        for at, late in reversed(self._late):
            if at < moment:
                break
            found += late
        return found
