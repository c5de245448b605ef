"""The router's index, with so many skills in it: bytes, and the time of a query."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.routing.population import cards_of, population
from benchmarks.routing.speed import FLOOR, check
from benchmarks.scale.costs import Index
from lora.engine import ArrowEngine
from lora.training.background import background_questions
from services.runtime.skill_index import SkillIndex

__all__ = ["SKILLS", "measure"]

SKILLS: Final = (100, 1_000, 10_000)
ASKED: Final = 128
"""Queries of each kind."""

Say = Callable[[str], None]


def measure(sentences: Sequence[str], skills: Sequence[int], seed: int, say: Say) -> list[Index]:
    """`sentences` say how vectors of the model lie. Raises `WrongAnswers`."""
    say("index: embedding")
    engine = ArrowEngine(device="cpu", trainable=False)
    vectors = engine.encode(sentences)
    background = engine.encode(background_questions()[: len(sentences)])
    found = []
    for count in skills:
        say(f"index: {count:,} skills")
        drawn = population(vectors, background, count, ASKED, seed)
        cards = list(cards_of(drawn))
        tracemalloc.start()
        index = SkillIndex(engine.dim, FLOOR)
        for card in cards:
            index.install(card)
        index.decide("query", drawn.own[:1], 1)  # some of it is made when it is asked
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        check(index, drawn)
        own, other = (_median_us(index, queries) for queries in (drawn.own, drawn.others))
        found.append(
            Index(
                skills=count,
                prototypes=len(drawn.points),
                bytes=size,
                own_us=own,
                other_us=other,
            )
        )
    return found


def _median_us(index: SkillIndex, queries: npt.NDArray[np.float32]) -> float:
    taken = []
    for query in queries:
        begun = time.perf_counter()
        index.decide("query", query[None], 1)
        taken.append(time.perf_counter() - begun)
    return 1e6 * float(np.median(taken))
