"""What the factory tells of a phase to those who follow its batch: log lines, and spans."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from services.factory.bench import Done
from services.factory.tasks import Owed
from services.runtime.tracing import begin, inside, under

__all__ = ["Told"]


class Told:
    """One phase, from the start of its training to the verdict.

    Training ends with its last step; what comes then, until the verdict is in the store, is the
    gate's, which the training child is before it ends.
    """

    def __init__(self, log: Any, owed: Owed) -> None:
        self._log = log
        self._owed = owed
        self._last = time.time()
        self._facts: dict[str, Any] = {
            "skill": owed.task.skill,
            "phase": owed.phase,
            "task": owed.task.task_id,
        }

    def step(self) -> None:
        """A step was taken."""
        self._last = time.time()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within it the candidate is trained."""
        self._log.info("training", **self._facts)
        span = begin("factory train", self._owed.event.traceparent, **self._facts)
        ended: float | None = None
        try:
            with inside(span):
                yield
            ended = self._last
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end(ended)

    @contextmanager
    def verdict(self, done: Done) -> Iterator[Owed]:
        """Within it the verdict is concluded, of the phase that is given here."""
        result = done.result
        facts: dict[str, Any] = {"accepted": result.accepted, "gain": result.metrics.get("gain")}
        parent = self._owed.event.traceparent
        span = begin("factory gate", parent, at=self._last, **facts, **self._facts)
        try:
            with inside(span):
                yield replace(self._owed, event=under(self._owed.event))
        finally:
            span.end()
        self._log.info(
            "judged",
            accepted=result.accepted,
            why=result.reason,
            seconds=round(result.seconds, 3),
            **self._facts,
        )
