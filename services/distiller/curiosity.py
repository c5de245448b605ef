"""What a teacher is shown: queries and passages that it was not asked about, and their company."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora.training.gate import unit
from services.distiller.experience import Experience
from services.distiller.skill_distiller import Vectors
from services.distiller.spaces import BLOCK, nearest
from services.distiller.taught import Open
from services.distiller.teacher import Asked, Material

__all__ = ["NEAR", "material_of"]

NEAR = 50
"""Unjudged passages that a teacher sees beside each query; it may look at fewer."""


def material_of(
    domain: str,
    queries: Sequence[Open],
    passages: Sequence[Open],
    experience: Experience,
    vectors: Vectors,
) -> Material:
    """The open texts that are part of this experience, in their sequence.

    A query counts as novel while no passage is known to be relevant to it.
    """
    asked = {query.text: query for query in experience.queries}
    known = dict.fromkeys(experience.passages.values())
    wanted = [one for one in queries if one.text in asked]
    near = _nearest([one.text for one in wanted], list(known), vectors)
    shown = []
    for one, order in zip(wanted, near, strict=True):
        labels = {experience.passages[key]: v for key, v in asked[one.text].labels.items()}
        relevant = tuple(text for text, value in labels.items() if value >= 0.5)
        shown.append(
            Asked(
                one.text,
                relevant,
                tuple(text for text, value in labels.items() if value < 0.5),
                tuple(text for text in order if text not in labels)[:NEAR],
                one.novel and not relevant,
                asked[one.text].fold,
            )
        )
    return Material(domain, tuple(shown), tuple(one.text for one in passages if one.text in known))


def _nearest(queries: Sequence[str], passages: Sequence[str], vectors: Vectors) -> list[list[str]]:
    """Passages near to each query in the base space, the nearest first."""
    if not queries or not passages:
        return [[] for _ in queries]
    everything = unit(np.stack([vectors.passages[text] for text in passages]))
    found: list[list[str]] = []
    for start in range(0, len(queries), BLOCK):
        part = np.stack([vectors.queries[text] for text in queries[start : start + BLOCK]])
        order = nearest(unit(part) @ everything.T, 2 * NEAR)  # some of them are judged already
        found += [[passages[column] for column in row] for row in order.tolist()]
    return found
