"""How clients' requests ended, and how long they took: in all, and in the last minute."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from services.runtime.histogram import MILLISECONDS, Histogram

__all__ = ["OWN", "Meter"]

OWN: Final = ("dissonance_monitor", "distiller", "factory")
"""Services that ask in bulk and wait patiently, in order to learn: counted apart, or they would
tell how long people wait."""

MINUTE: Final = 60.0

MOST: Final = 4096
"""Answers of the last minute of which the time is kept: of more, the newest."""


class Meter:
    """Counters for the heartbeat; bounded however many requests come. `now` is monotonic seconds.

    A request is counted when it ends: answered by an encoder, or failed, whoever told the client.
    `source` is who asked.
    """

    def __init__(self) -> None:
        self.answers = 0
        self.failures = 0
        self.own = 0
        self._times: deque[tuple[float, float]] = deque(maxlen=MOST)
        self._seconds: deque[list[int]] = deque(maxlen=int(MINUTE) + 1)
        """Of each second in which a request ended: which, and how many answers, texts, failures."""
        self._histogram = Histogram("latency_ms", MILLISECONDS)

    def answered(self, source: str, texts: int, seconds: float, now: float) -> None:
        """An encoder has answered a request of so many texts, so long after it had come."""
        if self._is_own(source):
            return
        self.answers += 1
        self._histogram.add(1000 * seconds)
        self._times.append((now, 1000 * seconds))
        second = self._second(now)
        second[1] += 1
        second[2] += texts

    def failed(self, source: str, now: float) -> None:
        """A client was told that there will be no vectors."""
        if self._is_own(source):
            return
        self.failures += 1
        self._second(now)[3] += 1

    def counters(self, now: float) -> dict[str, int | float]:
        """What the heartbeat says: since the start, and of the last minute."""
        since = now - MINUTE
        while self._times and self._times[0][0] <= since:
            self._times.popleft()
        while self._seconds and self._seconds[0][0] <= since:
            self._seconds.popleft()
        took = sorted(milliseconds for _, milliseconds in self._times)
        answers, texts, failures = (sum(it[place] for it in self._seconds) for place in (1, 2, 3))
        return {
            "answered": self.answers,
            "failed": self.failures,
            "own": self.own,
            "minute_requests": answers + failures,
            "minute_texts": texts,
            "minute_failed": failures,
            "p50_ms": _ranked(took, 0.50),
            "p95_ms": _ranked(took, 0.95),
            **self._histogram.counters(),
        }

    def _is_own(self, source: str) -> bool:
        own = source.strip("/").partition("/")[0] in OWN
        self.own += own
        return own

    def _second(self, now: float) -> list[int]:
        second = math.floor(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0, 0])
        return self._seconds[-1]


def _ranked(values: Sequence[float], share: float) -> float:
    """The value of this rank among sorted ones; 0 where there are none."""
    if not values:
        return 0.0
    return round(values[max(0, math.ceil(share * len(values)) - 1)], 2)
