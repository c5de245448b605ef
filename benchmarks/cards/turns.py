"""Contestants in turns, by the wall's clock or the processor's, and what each part adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks.kit.command import progress_bar
from benchmarks.kit.rounds import Comparison, Figure, compare, interleaved

__all__ = ["CLOCKS", "OURS", "PEFT", "CardsError", "Part", "Turns", "cosine", "within"]

OURS: Final = "consonance"
PEFT: Final = "PEFT"


class CardsError(Exception):
    """The contestants did not do the same work."""


@dataclass
class Part:
    """What one part of the benchmark found."""

    figures: list[Figure] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Turns:
    """How contestants are measured: so many rounds, by this clock."""

    rounds: int
    clock: Callable[[], float]
    """Seconds: `time.perf_counter`, or `time.process_time` on a machine that others use."""
    console: Console

    def take(
        self, what: str, contestants: Mapping[str, Callable[[], object]], *, repeat: int = 1
    ) -> dict[str, list[float]]:
        """Seconds of each contestant in each round, after one run that is not counted."""

        def timed(work: Callable[[], object]) -> float:
            began = self.clock()
            for _ in range(repeat):
                work()
            return (self.clock() - began) / repeat

        for work in contestants.values():
            work()
        return self.measure(what, {name: lambda w=w: timed(w) for name, w in contestants.items()})

    def measure(
        self, what: str, contestants: Mapping[str, Callable[[], float]]
    ) -> dict[str, list[float]]:
        """What contestants that measure themselves return in each round."""
        with progress_bar(self.console) as bar:
            task = bar.add_task(what, total=self.rounds * len(contestants))
            return interleaved(contestants, self.rounds, tell=lambda: bar.advance(task))


def within(what: str, milliseconds: list[float], most: float) -> Comparison:
    """Our milliseconds beside a plain number that was promised."""
    promised = (f"{most:,.0f} ms", [most] * len(milliseconds))
    return compare(what, (OURS, milliseconds), promised, relation="<=", wanted=1.0)


def cosine(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    """The least cosine between rows of the same place."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((np.sum(left * right, axis=1, dtype=np.float64) / norms).min())


CLOCKS: Final[dict[str, Callable[[], float]]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
}
"""By their names on the command line."""
