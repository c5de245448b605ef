"""Feedback as a person gives it who sees the ten passages ranked first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from benchmarks.kit.measure import best_wrong
from bus import Bus
from schemas import Event, FeedbackGiven

__all__ = ["feedback_events", "publish_all"]

AT_ONCE = 32  # pieces in one journal transaction


def feedback_events(
    source: str,
    domain: str,
    queries: Sequence[str],
    vectors: npt.ArrayLike,
    passages: Sequence[str],
    stored: npt.ArrayLike,
    relevant: Sequence[int],
) -> list[Event[Any]]:
    """A `feedback.given` for each query, served by the base model.

    Its one relevant passage is `passages[relevant[i]]`; irrelevant are the wrong ones among the
    ten that its base vector (a row of `vectors`) ranks first.
    """
    wrong = best_wrong(vectors, stored, relevant)
    return [
        Event(
            source=source,
            data=FeedbackGiven(
                query=query,
                relevant=(passages[own],),
                irrelevant=tuple(passages[index] for index in row),
                domain=domain,
                served=(),
            ),
        )
        for query, own, row in zip(queries, relevant, wrong, strict=True)
    ]


async def publish_all(bus: Bus, events: Sequence[Event[Any]]) -> None:
    """Publish in order; on return all of it is journaled."""
    for first in range(0, len(events), AT_ONCE):
        await bus.publish(*events[first : first + AT_ONCE])
