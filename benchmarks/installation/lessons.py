"""Feedback that a head surely learns from: of which module of the standard library is it said?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo.domain import Pair

__all__ = ["MODULES", "Lessons", "lessons_of"]

MODULES = 64
"""Modules that are passages, those of which most is said."""


@dataclass(frozen=True)
class Lessons:
    """Sentences, and the module that each is said in."""

    queries: tuple[str, ...]
    own: tuple[int, ...]
    """(n,) indexes of passages."""
    passages: tuple[str, ...]

    def drawn(self, among: Sequence[int], count: int, seed: int) -> Lessons:
        """`count` of the queries with these indexes, at random; raises `ValueError`."""
        if count > len(among):
            raise ValueError(f"{count} pieces of feedback were asked for, there are {len(among)}")
        order = np.random.default_rng(seed).permutation(len(among))[:count]
        rows = [among[at] for at in order]
        return Lessons(
            tuple(self.queries[row] for row in rows),
            tuple(self.own[row] for row in rows),
            self.passages,
        )


def lessons_of(pairs: Sequence[Pair]) -> Lessons:
    """The first sentences of docstrings as queries, their modules' names as passages."""
    count = Counter(_module(pair) for pair in pairs)
    chosen = sorted(sorted(count), key=lambda name: -count[name])[:MODULES]
    place = {name: index for index, name in enumerate(chosen)}
    kept = [pair for pair in pairs if _module(pair) in place]
    return Lessons(
        tuple(pair.query for pair in kept),
        tuple(place[_module(pair)] for pair in kept),
        tuple(f"the module {_spoken(name)}" for name in chosen),
    )


def _module(pair: Pair) -> str:
    parts = pair.name.split(".")
    return ".".join(part for part in parts[:-1] if not part[:1].isupper()) or parts[0]


def _spoken(name: str) -> str:
    return re.sub(r"[._]+", " ", name).strip()
