"""Contestants measured in turns: medians, spreads, and ratios within the same round.

Machines are shared and their clocks swing. What is compared is therefore measured in the same
round, one after another, in an order that turns with the round; the ratio is taken round by round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

__all__ = ["Comparison", "Figure", "Report", "compare", "figure", "interleaved", "ratios"]

Found = dict[str, Any]
Relation = Literal[">=", "<="]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of one contestant, over the rounds."""

    what: str
    """What was measured: `2,048 texts, 64 clients`."""
    who: str
    """Whose it is: `consonance`, `sentence-transformers`."""
    unit: str
    """`texts/s`, `ms`, `MB`."""
    median: float
    least: float
    most: float
    rounds: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant beside another, round by round."""

    what: str
    who: str
    against: str
    ratio: float
    """The median of the rounds' ratios, or of their differences where `unit` is not `×`."""
    least: float
    most: float
    unit: str = "×"
    relation: Relation | None = None
    """How it should stand to `wanted`; None where nothing was promised."""
    wanted: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None where nothing was promised."""
        if self.relation is None or self.wanted is None:
            return None
        return self.ratio >= self.wanted if self.relation == ">=" else self.ratio <= self.wanted


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one benchmark found; its JSON is what `make bench` makes the page from."""

    name: str
    """`encode`, as in `python -m benchmarks.encode`."""
    command: str
    """What was typed."""
    machine: Found
    """What `measured_on` says."""
    versions: dict[str, str]
    """Of ours and of each peer."""
    figures: tuple[Figure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    """One sentence each: what limits it, what was left out and why."""

    def found(self) -> Found:
        """As it goes into JSON; each comparison says whether it is `met`."""
        plain: Found = msgspec.to_builtins(self)
        for row, comparison in zip(plain["comparisons"], self.comparisons, strict=True):
            row["met"] = comparison.met
        return plain


def interleaved(
    contestants: Mapping[str, Callable[[], float]], rounds: int, *, tell: Callable[[], object] = int
) -> dict[str, list[float]]:
    """Run each contestant once a round, first in a different place each time.

    A contestant measures itself and returns its figure. It should have warmed up before. `tell` is
    called after each, for a progress bar.
    """
    names = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(contestants[name]())
            tell()
    return found


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of each round."""
    return [value / other for value, other in zip(values, others, strict=True)]


def figure(what: str, who: str, unit: str, values: Sequence[float]) -> Figure:
    """Median and extremes of the rounds."""
    return Figure(
        what=what,
        who=who,
        unit=unit,
        median=statistics.median(values),
        least=min(values),
        most=max(values),
        rounds=len(values),
    )


def compare(
    what: str,
    ours: tuple[str, Sequence[float]],
    theirs: tuple[str, Sequence[float]],
    *,
    relation: Relation | None = None,
    wanted: float | None = None,
    difference: str | None = None,
) -> Comparison:
    """Ours over theirs, round by round; with `difference` (a unit) ours less theirs instead."""
    (who, mine), (against, other) = ours, theirs
    values = (
        ratios(mine, other)
        if difference is None
        else [value - another for value, another in zip(mine, other, strict=True)]
    )
    return Comparison(
        what=what,
        who=who,
        against=against,
        ratio=statistics.median(values),
        least=min(values),
        most=max(values),
        unit=difference or "×",
        relation=relation,
        wanted=wanted,
    )
