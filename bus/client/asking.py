"""A question under way: asked, and asked again, by one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from bus.errors import RequestTimeout
from schemas import Event

__all__ = ["Question"]


class Question:
    """Takes one step after another until the answer is there or it is too late.

    `steps` ask: each is the seconds until the next one. What a step raises is the answer, and so is
    `RequestTimeout` at `end`, the loop's time. In callbacks: they take about a quarter less
    of a request's own time than a wait with a limit for each step.
    """

    def __init__(
        self,
        answer: asyncio.Future[Event[Any]],
        steps: Generator[float, None, None],
        *,
        end: float,
        late: str,
    ) -> None:
        self._answer = answer
        self._steps = steps
        self._end = end
        self._late = late
        self._loop = answer.get_loop()
        self._timer: asyncio.TimerHandle | None = None

    def go_on(self) -> None:
        """Take the next step."""
        if self._answer.done():
            return
        try:
            left = self._end - self._loop.time()
            if left <= 0:
                raise RequestTimeout(self._late)
            pause = next(self._steps)
        except Exception as e:  # whatever it is, whoever waits is told
            self._answer.set_exception(e)
            return
        self._timer = self._loop.call_later(min(left, pause), self.go_on)

    def end(self) -> None:
        """Take no further step."""
        self._steps.close()
        if self._timer is not None:
            self._timer.cancel()
