"""How fast the index is with ten thousand skills in it, beside NumPy's product of the same shape.

The index is asked as the router's process asks it, `SkillIndex.decide`. NumPy multiplies the same
queries with all prototypes, and stops there: no thresholds, no boundaries, no decision. Both have
one thread, as the processes of a fleet do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.kit.rounds import Comparison, Figure, compare, figure, interleaved
from benchmarks.routing.population import Population, cards_of, population
from lora.engine import ArrowEngine
from lora.training.background import background_questions
from schemas import SkillCard
from services.runtime.skill_index import SkillIndex

__all__ = ["Speeds", "WrongAnswers", "measured"]

Floats = npt.NDArray[np.float32]
Say = Callable[[str], None]

OURS, NUMPY = "consonance", "NumPy, the product alone"
ONE_MS, MANY_TIMES = 1.0, 1.5
FLOOR = 0.5
ALONE = 64
"""Queries that are asked one by one in a round."""

TOGETHER = 256
CHANGES = 50
"""Cards that leave and come again in a round."""


class WrongAnswers(Exception):
    """The index does not say what a plain search says: its speed is of no interest."""


@dataclass(frozen=True)
class Speeds:
    """Figures and comparisons of a report."""

    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


def measured(
    sentences: Sequence[str], *, skills: int, rounds: int, seed: int, model: str | None, say: Say
) -> Speeds:
    """`sentences` say how vectors of the model lie. Raises `WrongAnswers`."""
    say("embedding")
    engine = ArrowEngine(model)
    vectors = engine.encode(sentences)
    background = engine.encode(background_questions()[: len(sentences)])
    say(f"{skills:,} skills")
    found = population(vectors, background, skills, TOGETHER, seed)
    index, cards = SkillIndex(engine.dim, FLOOR), list(cards_of(found))
    slowest = max(_seconds(lambda card=card: index.install(card)) for card in cards)  # type: ignore[misc]
    check(index, found)
    say(f"{rounds} rounds")
    return _compared(index, found, cards, rounds, slowest)


def check(index: SkillIndex, found: Population) -> None:
    """Raise `WrongAnswers` unless queries of both kinds, alone and together, get the answers that
    all scores and boundaries lead to."""
    for queries in (found.own, found.others):
        together = index.decide("query", queries, 1)
        for query, decision in zip(queries[:ALONE], together, strict=False):
            if index.decide("query", query[None], 1) != [decision]:
                raise WrongAnswers("one query alone is answered otherwise than among others")
            best = np.maximum.reduceat(found.points @ query, found.starts)
            sides = [it.holds(query[None])[0] for it in found.boundaries]
            best = np.where((best >= found.thresholds) & sides, best, -np.inf)
            expected = f"skill-{best.argmax()}" if np.isfinite(best.max()) else None
            named = decision.matches[0].name if decision.matches else None
            # Whether it is anybody's guess is told by the tests of the router.
            ambiguous = decision.reason == "ambiguous" and expected is not None
            if not ambiguous and named != expected:
                raise WrongAnswers(f"{named} answers where {expected} is nearest")


def _compared(
    index: SkillIndex,
    found: Population,
    cards: Sequence[SkillCard],
    rounds: int,
    slowest: float,
) -> Speeds:
    half = TOGETHER // 2
    mixed = np.concatenate([found.own[:half], found.others[:half]])

    def decide(queries: Floats) -> Callable[[], float]:
        return lambda: _each(lambda query: index.decide("query", query, 1), queries[:ALONE])

    def multiply(queries: Floats) -> Callable[[], float]:
        return lambda: _each(lambda query: found.points @ query[0], queries[:ALONE])

    def change() -> float:
        def again() -> None:
            for card in cards[:: max(1, len(cards) // CHANGES)][:CHANGES]:
                index.remove(card.digest)
                index.install(card)

        return 1e3 * _seconds(again) / CHANGES

    contestants: dict[str, Callable[[], float]] = {
        "own": decide(found.own),
        "own, product": multiply(found.own),
        "others": decide(found.others),
        "others, product": multiply(found.others),
        "together": lambda: 1e3 * _seconds(lambda: index.decide("query", mixed, 1)),
        "together, product": lambda: 1e3 * _seconds(lambda: mixed @ found.points.T),
        "change": change,
    }
    for contestant in contestants.values():
        contestant()  # warm
    taken = interleaved(contestants, rounds)
    one = "one query that a skill answers"
    other = "one everyday question"
    many = f"{TOGETHER} queries at once, half of each"
    figures = (
        figure(one, OURS, "ms", taken["own"]),
        figure(one, NUMPY, "ms", taken["own, product"]),
        figure(other, OURS, "ms", taken["others"]),
        figure(other, NUMPY, "ms", taken["others, product"]),
        figure(many, OURS, "ms", taken["together"]),
        figure(many, NUMPY, "ms", taken["together, product"]),
        figure("one card removed and installed again", OURS, "ms", taken["change"]),
        figure("the slowest card, while the index was filled", OURS, "ms", [1e3 * slowest]),
    )
    nothing = ("nothing", [0.0] * rounds)
    comparisons = (
        compare(one, (OURS, taken["own"]), nothing, relation="<=", wanted=ONE_MS, difference="ms"),
        compare(
            other, (OURS, taken["others"]), nothing, relation="<=", wanted=ONE_MS, difference="ms"
        ),
        compare(one, (OURS, taken["own"]), (NUMPY, taken["own, product"])),
        compare(other, (OURS, taken["others"]), (NUMPY, taken["others, product"])),
        compare(
            many,
            (OURS, taken["together"]),
            (NUMPY, taken["together, product"]),
            relation="<=",
            wanted=MANY_TIMES,
        ),
    )
    decided = index.decide("query", mixed, 1)
    answered = [bool(it.matches) for it in decided]
    notes = (
        f"{len(cards):,} skills with {len(found.points):,} prototypes, a threshold and a boundary "
        "each, drawn as the model's vectors lie; thresholds by the rules of calibration, from "
        f"{found.thresholds.min():.2f} to {found.thresholds.max():.2f}.",
        f"Of the queries drawn about a skill {np.mean(answered[:half]):.0%} were answered by one, "
        f"of the everyday ones {np.mean(answered[half:]):.0%}.",
    )
    return Speeds(figures, comparisons, notes)


def _each(ask: Callable[[Floats], object], queries: Floats) -> float:
    """The median of the milliseconds that a query takes alone."""
    return 1e3 * float(np.median([_seconds(lambda row=row: ask(row[None])) for row in queries]))  # type: ignore[misc]


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
