"""What the parts of the torture share: what each reports, and how it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Outcome", "Part", "Say"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What one part did, found and counted."""

    part: str
    seed: int
    seconds: float
    figures: dict[str, int | float | str] = field(default_factory=dict)
    """Counts under words that a reader understands: `events acknowledged`, `faults`, `lost`."""
    broken: tuple[str, ...] = ()
    """A sentence for each promise that did not hold, with what is needed to see it again."""


class Part(Protocol):
    """A module of this package that can be run alone."""

    MINUTES: float
    """The budget of the long form."""
    ABOUT: str

    def run(self, minutes: float, seed: int, say: Say) -> Outcome: ...
