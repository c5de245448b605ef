"""What an encoder's heartbeat says beyond plain sums: how long requests took, what served them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.encoder.batcher import Job
from services.runtime.histogram import MILLISECONDS, ROWS, Histogram

__all__ = ["Tally"]

SKILLS: Final = 64
"""Skills whose rows are counted by name; all others together count as `*`."""

CARDS: Final = 64
"""Mapped cards that are told, those that came last."""


class Tally:
    """Counters of a bounded number, whatever is asked for."""

    def __init__(self) -> None:
        self._queue = Histogram("queue_ms", MILLISECONDS)
        self._compute = Histogram("compute_ms", MILLISECONDS)
        self._batches = Histogram("batch_rows", ROWS)
        self._rows: dict[str, int] = {}
        self._cards: dict[str, int] = {}

    def batch(self, rows: int) -> None:
        """A batch of so many rows was computed."""
        self._batches.add(rows)

    def answered(self, job: Job) -> None:
        """A request is whole."""
        self._queue.add(1000 * ((job.started or job.received) - job.received))
        self._compute.add(1000 * job.compute)
        for row in job.data.rows:
            for place, _ in row.skills:
                name = job.data.skills[place].name
                if name not in self._rows and len(self._rows) >= SKILLS:
                    name = "*"
                self._rows[name] = self._rows.get(name, 0) + 1

    def placed(self, digest: str, size: int) -> None:
        """A card of so many bytes is mapped."""
        self._cards.pop(digest, None)
        self._cards[digest] = size

    def gone(self, digests: Iterable[str]) -> None:
        """These are not, any more."""
        for digest in digests:
            self._cards.pop(digest, None)

    def counters(self) -> dict[str, int | float]:
        """Histograms, `rows:NAME` of each skill, `card:DIGITS` (12 of its digest's): its bytes."""
        told = list(self._cards.items())[-CARDS:]
        return {
            **self._queue.counters(),
            **self._compute.counters(),
            **self._batches.counters(),
            **{f"rows:{name}": count for name, count in self._rows.items()},
            **{f"card:{digest[7:19]}": size for digest, size in told},
        }
