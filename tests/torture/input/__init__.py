"""Bad input: every door is given what is nearly right, by Hypothesis and by a guided fuzzer.

The promise of each door is a check of its target (`events`, `broker`, …): it raises nothing but
what it documents, within seconds and a bound of memory, and believes nothing that its schema does
not allow. What once broke a promise lies in `cases/` and is replayed.
"""

from __future__ import annotations

from typing import Final

from tests.torture.kit import Outcome, Say

__all__ = ["ABOUT", "MINUTES", "run"]

MINUTES: Final = 15.0
ABOUT: Final = "bytes from outside that are nearly right, at every door"


def run(minutes: float, seed: int, say: Say) -> Outcome:
    """All targets, each with its share of the time."""
    # A fuzzer's process imports this package before what it instruments.
    from tests.torture.input import runner

    return runner.run(minutes, seed, say)
