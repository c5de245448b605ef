"""One order: what of its material is asked about, and what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from services.distiller.cloud.asks import Ask
from services.distiller.cloud.errors import PartError, UnavailableError
from services.distiller.teacher import Contribution, Material, Pair
from services.runtime.settings import TeacherSettings

__all__ = ["Order"]

TOLD = 3
"""Reasons for leaving something out that are told, the most frequent ones."""

Vector = npt.NDArray[np.float32]


class Order:
    """What one order came to."""

    def __init__(self, material: Material, settings: TeacherSettings) -> None:
        queries, passages = settings.queries_per_order, settings.passages_per_order
        self._material = material
        self.taken = replace(
            material, queries=material.queries[:queries], passages=material.passages[:passages]
        )
        """What is asked about; the rest is left to the next order."""
        self.slots = asyncio.Semaphore(settings.concurrency)
        """So many requests of it wait for an answer: where one shows that nothing can be asked,
        the others are not sent."""
        self.unavailable: UnavailableError | None = None
        """Why nothing more is asked."""
        self._left_out: Counter[str] = Counter()
        """Requests without a usable answer, by why."""
        self._unanswered = 0
        """Items that answers passed over."""
        self._notes: list[str] = []

    def read(self, ask: Ask, content: str) -> list[Pair]:
        """The pairs of an answer. Raises `MalformedError`."""
        pairs, missing = ask.read(content)
        self._unanswered += missing
        return pairs

    def stop(self, error: UnavailableError) -> None:
        """Nothing more can be asked; the first reason is the one to tell."""
        self.unavailable = self.unavailable or error

    def leave_out(self, error: PartError) -> None:
        """One request has no usable answer."""
        self._left_out[str(error)] += 1

    def note(self, why: str) -> None:
        """Something else that is missing."""
        self._notes.append(why)

    @property
    def reason(self) -> str | None:
        """One sentence, or None where everything was answered."""
        parts = [] if self.unavailable is None else [str(self.unavailable)]
        parts += self._notes
        told = self._left_out.most_common(TOLD)
        parts += [f"{count} × left out: {why}" for why, count in told]
        if others := self._left_out.total() - sum(count for _, count in told):
            parts.append(f"{others} × left out for other reasons")
        if self._unanswered:
            parts.append(f"{self._unanswered} items were passed over")
        return "; ".join(parts) or None

    def contribution(
        self,
        pairs: Iterable[Pair] = (),
        vectors: Mapping[str, Vector] | None = None,
        space: str = "",
    ) -> Contribution:
        """What the order adds, and why not more.

        Where it was broken off all of it is left: what was answered is known when the same is
        asked again, and the same requests are made of the same material.
        """
        stopped = self.unavailable
        left = set(_said(self._material))
        if stopped is None:
            left -= set(_said(self.taken))
        return Contribution(
            tuple(pairs),
            vectors or {},
            self.reason,
            None if stopped is None else stopped.again,
            frozenset(left),
            space if vectors else "",
        )


def _said(material: Material) -> list[str]:
    return [*(query.text for query in material.queries), *material.passages]
