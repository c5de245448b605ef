"""What is done to the labels of a batch, and what should come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["CONDITIONS", "Condition", "Labels", "poisoned"]

Labels = Literal["clean", "shuffled", "fifth", "wrong"]

FIFTH = 0.2
"""Share of the labels that `fifth` shuffles."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One row of the table."""

    name: str
    title: str
    labels: Labels
    after: bool = False
    """A second batch: the first, clean one was learned, and is served if it passed the gate."""
    looks: int = 1
    """How often the gate judges: each time on so much more of the batch, until it publishes."""
    anchors: bool = False
    """The gate has trusted pairs on which nothing may lose."""
    most: float | None = None
    """Largest share of seeds that may publish; None: no bound."""
    least: float | None = None
    """Smallest share of seeds that should publish; None: no bound."""
    harmless: bool = False
    """Nothing published may be worse than what was served, on clean held-out queries."""


CONDITIONS = (
    Condition(name="clean", title="clean labels", labels="clean", least=0.8),
    Condition(name="shuffled", title="all labels shuffled", labels="shuffled", most=0.05),
    Condition(
        name="shuffled-trickle",
        title="all shuffled, judged 8 times on the way",
        labels="shuffled",
        looks=8,
        most=0.05,
    ),
    Condition(name="fifth", title="20 % shuffled", labels="fifth", harmless=True),
    Condition(name="after-clean", title="second batch, clean", labels="clean", after=True),
    Condition(
        name="after-shuffled",
        title="second batch, all shuffled",
        labels="shuffled",
        after=True,
        most=0.05,
    ),
    Condition(
        name="after-fifth",
        title="second batch, 20 % shuffled",
        labels="fifth",
        after=True,
        harmless=True,
    ),
    Condition(name="wrong", title="consistently wrong, no anchors", labels="wrong"),
    Condition(
        name="wrong-anchors",
        title="consistently wrong, with anchors",
        labels="wrong",
        anchors=True,
        most=0.05,
    ),
)


def poisoned(
    own: Sequence[int], labels: Labels, categories: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """The relevant passage of each query as such a batch tells it.

    `shuffled` permutes them among all queries, `fifth` among a fifth drawn at random (so how often
    a passage is named stays the same, and a few keep theirs by chance); `wrong` gives every
    passage's queries to one other passage, always the same.
    """
    given = np.asarray(own, np.int64)
    if labels == "wrong":
        ring = generator.permutation(categories)
        other = np.empty(categories, np.int64)
        other[ring] = np.roll(ring, 1)
        given = other[given]
    elif labels != "clean":
        share = 1.0 if labels == "shuffled" else FIFTH
        rows = generator.permutation(len(given))[: round(share * len(given))]
        given = given.copy()
        given[rows] = given[generator.permutation(rows)]
    told: list[int] = given.tolist()
    return tuple(told)
