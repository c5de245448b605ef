"""What happens on which day: categories that enter, a mix that shifts, who is killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.learning.data import DataError, DataSet, Queries

__all__ = ["DAYS", "Day", "Kill", "cron_of", "plan_week"]

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
FIRST_SHARE = 0.4
"""Share of the categories that are asked about on the first day; the last day has all."""

FRESH = 3.0
"""On its first day a category is asked about so many times as often as it would be."""

DAYTIME = (0.2, 0.8)
"""When people ask, as shares of the day: a night goes before."""

SERVICES = ("encoder", "router", "dissonance_monitor", "distiller", "adapter_manager", "broker")


@dataclass(frozen=True)
class Kill:
    """SIGKILL to a process of the fleet."""

    service: str
    at: float
    """Share of the day, 0 to 1."""


@dataclass(frozen=True)
class Day:
    """What one day brings."""

    number: int
    """From 1."""
    name: str
    categories: tuple[int, ...]
    """All that people ask about by now."""
    fresh: tuple[int, ...]
    """Those of them that nobody asked about before."""
    feedback: Queries
    """Of the training set, in the order in which it is given."""
    held_out: Queries
    """All test questions of the categories so far."""
    kills: tuple[Kill, ...]
    wrong: frozenset[int]
    """Which pieces of feedback are wrong, by their place."""


def cron_of(seconds: int) -> str:
    """A cron expression that is due every so many seconds; raises `ValueError` where none is."""
    if seconds % 60 == 0 and 60 % (seconds // 60) == 0:
        return f"*/{seconds // 60} * * * *"
    raise ValueError(
        f"a day of {seconds} s is none that cron can tell; it should be a number of minutes by "
        "which an hour can be divided, as 60, 120 or 180"
    )


def plan_week(
    data: DataSet, days: int, pieces: int, *, bad_day: int | None, seed: int
) -> list[Day]:
    """The week, drawn by `seed`: `pieces` of feedback a day, each question given once.

    On the bad day half of the feedback is wrong. Raises `DataError` where the questions do not
    suffice.
    """
    random = np.random.default_rng(seed)
    count = len(data.passages)
    order = random.permutation(count)
    base = random.dirichlet(np.full(count, 3.0))
    shift = random.dirichlet(np.full(count, 3.0))
    own, asked = np.array(data.train.own), np.zeros(len(data.train), bool)
    test = np.array(data.test.own)
    week: list[Day] = []
    for number in range(1, days + 1):
        gone = (number - 1) / max(days - 1, 1)
        known = order[: max(2, round(count * (FIRST_SHARE + (1 - FIRST_SHARE) * gone)))]
        earlier = set(week[-1].categories) if week else set(known.tolist())
        fresh = [int(it) for it in known if int(it) not in earlier]
        mix = (1 - gone) * base + gone * shift
        mix[fresh] *= FRESH
        chosen = _draw(mix, known, own, asked, pieces, random)
        held = np.flatnonzero(np.isin(test, known))
        bad = pieces // 2 if number == bad_day else 0
        wrong = frozenset(int(it) for it in random.permutation(pieces)[:bad])
        week.append(
            Day(
                number,
                DAYS[(number - 1) % len(DAYS)],
                tuple(sorted(int(it) for it in known)),
                tuple(sorted(fresh)),
                _rows(data.train, chosen),
                _rows(data.test, held),
                _kills(number, random),
                wrong,
            )
        )
    return week


def _draw(
    mix: npt.NDArray[np.float64],
    known: npt.NDArray[np.int64],
    own: npt.NDArray[np.int64],
    asked: npt.NDArray[np.bool_],
    pieces: int,
    random: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Places (pieces,) of questions not asked before, by the mix of their categories."""
    free = np.flatnonzero(np.isin(own, known) & ~asked)
    if len(free) < pieces:
        raise DataError(f"{pieces} new questions a day were asked for, {len(free)} are left")
    size = np.bincount(own[free], minlength=len(mix))
    weight = mix[own[free]] / size[own[free]]
    chosen = random.choice(free, pieces, replace=False, p=weight / weight.sum())
    asked[chosen] = True
    return np.asarray(chosen, np.int64)


def _kills(number: int, random: np.random.Generator) -> tuple[Kill, ...]:
    """The factory every other night, in the midst of a body; by day somebody else."""
    night = [Kill("factory", float(random.uniform(0.05, 0.12)))] if number % 2 == 0 else []
    victim = SERVICES[int(random.integers(len(SERVICES)))]
    return (*night, Kill(victim, float(random.uniform(0.3, 0.7))))


def _rows(queries: Queries, places: npt.NDArray[np.int64] | Sequence[int]) -> Queries:
    chosen = [int(it) for it in places]
    return Queries(
        tuple(queries.texts[it] for it in chosen), tuple(queries.own[it] for it in chosen)
    )
