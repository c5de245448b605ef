"""What an encoder tells of requests to those who follow one: log lines, and spans."""

from __future__ import annotations

import time
from typing import Any

from schemas import EncodeAssigned, Event
from services.encoder.batcher import Job
from services.encoder.shelf import Placed
from services.runtime.tracing import following, here, record, tracing

__all__ = ["Teller"]


class Teller:
    """Ids, numbers and names of skills; never a text."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._used: set[str] = set()
        """Digests of the cards that made a row since they were mapped."""

    def answered(self, job: Job) -> None:
        """A request is whole."""
        data = job.data
        with following(job.event):
            self._log.debug(
                "answered",
                id=data.request_id,
                texts=len(data.texts),
                tokens=job.tokens,
                queue_ms=round(1000 * ((job.started or job.received) - job.received), 3),
                compute_ms=round(1000 * job.compute, 3),
            )
            if any(skill.digest not in self._used for skill in data.skills):
                self._first(job)
        if tracing():
            _trace(job)

    def _first(self, job: Job) -> None:
        """The end of a batch's story: its card is in use."""
        for place in sorted({place for row in job.data.rows for place, _ in row.skills}):
            skill = job.data.skills[place]
            if skill.digest not in self._used:
                self._used.add(skill.digest)
                self._log.info(
                    "first answer with a card",
                    id=job.data.request_id,
                    skill=skill.name,
                    version=skill.version,
                    digest=skill.digest,
                )

    def failed(self, event: Event[EncodeAssigned], code: str) -> None:
        """A request is not answered with vectors."""
        with following(event):
            self._log.debug("not answered", id=event.data.request_id, code=code)

    def mapped(self, placed: Placed) -> None:
        """A card came onto the shelf."""
        card = placed.card
        facts: dict[str, Any] = {"skill": card.name, "version": card.version, "digest": card.key}
        self._log.info("card mapped", **facts)
        began = time.time() - placed.milliseconds / 1000
        record("encoder map card", here().traceparent, began, **facts)

    def gone(self, digest: str) -> None:
        """A card is not mapped any more."""
        self._used.discard(digest)


def _trace(job: Job) -> None:
    """Both spans at the end, from the times that are taken anyway."""
    parent, data = job.event.traceparent, job.data
    clock = time.time() - time.monotonic()
    started = clock + (job.started or job.received)
    record("encoder queue", parent, clock + job.received, started, id=data.request_id)
    record(
        "encoder pass",
        parent,
        started,
        id=data.request_id,
        texts=len(data.texts),
        tokens=job.tokens,
        compute_ms=1000 * job.compute,
        skills=[f"{skill.name}@{skill.version}" for skill in data.skills],
    )
