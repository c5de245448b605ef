"""The same flood in simulated time: the router's admission, an encoder's queue, no process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush
from random import Random
from typing import Final

from schemas import AssignedRow, EncodeAssigned, Event
from services.encoder.batcher import Batcher, Job
from services.router.admission import Admission, Limits
from services.router.errors import Refused
from services.router.outstanding import Entry, Outstanding
from tests.torture.overload.crowd import Asked, Shape

__all__ = ["Simulated"]

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
TOKENS: Final = 12
"""Of each text."""
BUDGET: Final = 1024


@dataclass
class Simulated:
    """One encoder that gets `pace` tokens done in a second, and who asks it."""

    pace: float
    limits: Limits = field(default_factory=lambda: Limits(texts=8192, seconds=6.0))
    asked: list[Asked] = field(default_factory=list)
    most: int = 0
    """Texts that waited at once."""

    def __post_init__(self) -> None:
        self._books = Outstanding()
        self._admission = Admission(self._books, self.limits, lambda: self.pace)
        self._batcher = Batcher(BUDGET, self.limits.seconds)
        self._jobs: dict[Job, tuple[Asked, Entry]] = {}
        self._free = 0.0
        self._made = 0

    def flood(
        self,
        rate: float,
        seconds: float,
        weights: Sequence[float],
        shape: Shape,
        random: Random,
        *,
        deadline: float,
        since: float = 0.0,
        patient: Sequence[Asked] = (),
    ) -> None:
        """Ask at random from `since` on, and serve until all is over.

        Who is `patient` asks once, and when refused comes again when it was told to.
        """
        now, clients = since, range(len(weights))
        turns = [(asked.at, place) for place, asked in enumerate(patient)]
        heapify(turns)
        while (now := now + random.expovariate(rate)) < since + seconds:
            while turns and turns[0][0] <= now:
                at, place = heappop(turns)
                self._serve(at)
                asked = patient[place]
                self._ask(asked, at)
                if asked.retry_after_ms and (at := at + asked.retry_after_ms / 1000) < asked.until:
                    heappush(turns, (at, place))
            self._serve(now)
            (client,) = random.choices(clients, weights)
            self.asked.append(Asked(client, shape, now, now + deadline))
            self._ask(self.asked[-1], now)
        self._serve(float("inf"))

    def _ask(self, asked: Asked, now: float) -> None:
        shape, left = asked.shape, asked.until - now
        source, tokens = f"/crowd/{asked.client}", TOKENS * shape.texts
        self._made += 1
        try:
            self._admission.check(source, shape.texts, tokens, left, now)
        except Refused as refused:
            asked.code, asked.retry_after_ms, asked.done = refused.code, refused.retry_after_ms, now
            return
        asked.retry_after_ms = None
        late = START + timedelta(seconds=asked.until)
        key = (source, str(self._made))
        entry = Entry(key=key, deadline=late, texts=shape.texts, tokens=tokens)
        data = EncodeAssigned(
            request_id=key[1],
            texts=("",) * shape.texts,
            role="query",
            deadline=late,
            skills=(),
            rows=(AssignedRow(),) * shape.texts,
            reply_to="",
            router="",
            client=source,
        )
        job = Job(
            Event(data=data, source="/router/1"),
            ((),) * shape.texts,
            (TOKENS,) * shape.texts,
            received=now,
        )
        self._books.open(entry)
        self._jobs[job] = asked, entry
        self._batcher.add(job)
        self._free = max(self._free, now) if len(self._jobs) == 1 else self._free
        self.most = max(self.most, self._books.all.texts)

    def _serve(self, until: float) -> None:
        """Batches that begin before `until`, one after another."""
        while self._jobs and self._free < until:
            batch = self._batcher.take(START + timedelta(seconds=self._free), self._free)
            for job in batch.expired:
                self._over(job, "deadline")
            for job in batch.stuck:
                self._over(job, "overloaded", int(1000 * self.limits.seconds))
            self._free += TOKENS * len(batch.rows) / self.pace
            for row in batch.rows:
                row.job.left -= 1
                if not row.job.left:
                    self._over(row.job, "completed")

    def _over(self, job: Job, code: str, retry_after_ms: int | None = None) -> None:
        asked, entry = self._jobs.pop(job)
        asked.code, asked.retry_after_ms, asked.done = code, retry_after_ms, self._free
        self._books.close(entry)
