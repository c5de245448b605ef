"""Which pairs of teachers can be looked at at all; the rest is counted by what is wrong with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass

from lora.training.folds import normalise
from services.distiller.experience import Experience
from services.distiller.teacher import Contribution, Kind, Pair

__all__ = ["GENERATED", "WRITTEN", "Sifted", "Taught", "sift"]

GENERATED: Set[Kind] = {"paraphrase", "question"}
"""Kinds whose query the teacher wrote; the passage is a known one."""

WRITTEN: Set[Kind] = {"answer", "hard_negative"}
"""Kinds whose passage the teacher may have written; the query is a person's."""


@dataclass(frozen=True)
class Taught:
    """A pair, and who said it."""

    teacher: str
    pair: Pair

    @property
    def source(self) -> str:
        """The source of its label, such as `openai.question`."""
        return f"{self.teacher}.{self.pair.kind}"


@dataclass(frozen=True)
class Sifted:
    """Pairs worth a vector."""

    pairs: tuple[Taught, ...]
    dropped: Counter[str]
    """How many were dropped, by why."""


def sift(experience: Experience, lessons: Mapping[str, Contribution], longest: int) -> Sifted:
    """Sort out what is malformed; `lessons` by the teacher's name, `longest` in characters.

    Reasons: `value` (not in 0 to 1, or not that of its kind), `empty`, `too_long`, `identical`
    (query and passage), `unknown_passage`, `unknown_origin` (a query that is not part of this
    experience), `leak` (said of a query because of one of another fold), `repeated`.
    """
    asked = {query.text: query.fold for query in experience.queries}
    passages = set(experience.passages.values())
    kept, dropped, seen = [], Counter[str](), set()
    for teacher, contribution in lessons.items():
        for pair in contribution.pairs:
            why = _fault(pair, asked, passages, longest)
            same = (pair.kind, pair.query, pair.passage)
            if why is None and same in seen:
                why = "repeated"
            if why is None:
                kept.append(Taught(teacher, pair))
                seen.add(same)
            else:
                dropped[why] += 1
    return Sifted(tuple(kept), dropped)


def _fault(pair: Pair, asked: Mapping[str, int], passages: Set[str], longest: int) -> str | None:
    texts = (pair.query, pair.passage)
    new = [text for text in texts if text not in asked and text not in passages]
    faults = {
        "value": not math.isfinite(pair.value)
        or not 0 <= pair.value <= 1
        or (pair.kind == "answer" and pair.value < 0.5)
        or (pair.kind == "hard_negative" and pair.value >= 0.5),
        "empty": not pair.query.strip() or not pair.passage.strip(),
        "too_long": any(len(text) > longest for text in new),
        "identical": normalise(pair.query) == normalise(pair.passage),
        "unknown_passage": pair.kind not in WRITTEN and pair.passage not in passages,
        "unknown_origin": _is_lost(pair, asked),
        "leak": pair.kind not in GENERATED and _crosses(pair, asked),
    }
    return next((why for why, holds in faults.items() if holds), None)


def _is_lost(pair: Pair, asked: Mapping[str, int]) -> bool:
    """It must derive from, or speak of, a query that is known, and does not."""
    if pair.kind in GENERATED:
        required = pair.kind == "paraphrase" or pair.origin is not None
        return required and pair.origin not in asked
    return not {pair.query, pair.origin or pair.query} <= asked.keys()


def _crosses(pair: Pair, folds: Mapping[str, int]) -> bool:
    """What is said of one person's query derives from another one's, of another fold."""
    return pair.origin is not None and folds.get(pair.origin) != folds.get(pair.query)
