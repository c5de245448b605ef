"""A client of the fleet: encode, list skills, give feedback; over the bus as any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bus import Bus, RequestTimeout
from schemas import (
    CompletedRow,
    EncodeCompleted,
    EncodeFailed,
    EncodeRequested,
    Event,
    FeedbackGiven,
    ListedCard,
    Role,
    SkillListed,
    SkillListRequested,
    now,
)
from services.errors import EncodeFailedError
from services.runtime.vectors import from_stream

__all__ = ["Encoded", "FleetClient"]

Route = Literal["auto", "named", "base"]


class Encoded(NamedTuple):
    """Vectors and how each was made."""

    vectors: NDArray[np.float32]
    """(texts, dim), in the order of the texts."""
    rows: tuple[CompletedRow, ...]
    model: str
    tokens: int
    queue_ms: float
    """The longest wait among the requests that this took."""
    compute_ms: float
    """Summed over the requests."""


class FleetClient:
    """Speaks to a running fleet over a bus that the caller owns.

    Long lists travel as several requests of at most `chunk` texts, `in_flight` at a time.
    """

    def __init__(
        self, bus: Bus, *, deadline_ms: int = 30_000, chunk: int = 64, in_flight: int = 4
    ) -> None:
        self.bus = bus
        self.deadline_ms = deadline_ms
        self.chunk = chunk
        self.in_flight = in_flight

    async def encode(
        self,
        texts: Sequence[str],
        *,
        role: Role = "query",
        route: Route = "auto",
        skills: Sequence[str] = (),
        intent: str | None = None,
        top_k: int = 1,
        deadline_ms: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Encode `texts`; `progress` hears how many more are done.

        `skills` given without a route means `named`. The deadline is each request's own.
        Raises `EncodeFailedError` with wire.md's code, `bus.RequestTimeout` if nobody answers.
        """
        if skills and route == "auto":
            route = "named"
        gate = asyncio.Semaphore(self.in_flight)
        allowed = deadline_ms or self.deadline_ms

        async def one(part: Sequence[str]) -> tuple[EncodeCompleted, NDArray[np.float32]]:
            async with gate:
                answer = await self._request(
                    EncodeRequested(
                        texts=tuple(part),
                        reply_to=self.bus.address,
                        role=role,
                        route=route,
                        skills=tuple(skills),
                        intent=intent,
                        top_k=top_k,
                        deadline_ms=allowed,
                    )
                )
            if progress is not None:
                progress(len(part))
            return answer

        parts = [texts[i : i + self.chunk] for i in range(0, len(texts), self.chunk)] or [texts]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(part)) for part in parts]
        except ExceptionGroup as failed:  # the first tells why; the others were cancelled or alike
            raise failed.exceptions[0] from None
        answers = [task.result() for task in tasks]
        first = answers[0][0]
        return Encoded(
            vectors=np.concatenate([vectors for _, vectors in answers]),
            rows=tuple(row for answer, _ in answers for row in answer.rows),
            model=first.model,
            tokens=sum(answer.tokens for answer, _ in answers),
            queue_ms=max(answer.queue_ms for answer, _ in answers),
            compute_ms=sum(answer.compute_ms for answer, _ in answers),
        )

    async def _request(self, data: EncodeRequested) -> tuple[EncodeCompleted, NDArray[np.float32]]:
        start = now()
        ends = start.timestamp() + data.deadline_ms / 1000
        while True:
            event = Event(data=data, source=self.bus.source, time=start)
            left = ends - now().timestamp()
            if left <= 0:
                raise RequestTimeout(f"no answer within {data.deadline_ms} ms")
            answer = await self.bus.request(event, (EncodeCompleted, EncodeFailed), timeout=left)
            failed = answer.data
            if isinstance(failed, EncodeCompleted):
                return failed, from_stream(answer.attachments[0])
            pause = (failed.retry_after_ms or 0) / 1000
            if failed.code != "overloaded" or now().timestamp() + pause >= ends:
                raise EncodeFailedError(failed.code, failed.message, failed.retry_after_ms)
            await asyncio.sleep(pause)

    async def skills(self, *, timeout: float = 10.0) -> tuple[ListedCard, ...]:
        """The cards that the manager knows, with their state."""
        request = Event(data=SkillListRequested(reply_to=self.bus.address), source=self.bus.source)
        answer = await self.bus.request(request, SkillListed, timeout=timeout)
        cards: tuple[ListedCard, ...] = answer.data.cards
        return cards

    async def feedback(
        self,
        query: str,
        relevant: Sequence[str],
        irrelevant: Sequence[str] = (),
        *,
        domain: str | None = None,
        served: Sequence[str] | None = None,
    ) -> str:
        """Tell what was relevant to a query and what was not; returns the event's id.

        On return the feedback is journaled: it cannot be lost any more.
        """
        data = FeedbackGiven(
            query=query,
            relevant=tuple(relevant),
            irrelevant=tuple(irrelevant),
            domain=domain,
            served=None if served is None else tuple(served),
        )
        event = Event(data=data, source=self.bus.source)
        await self.bus.publish(event)
        return event.id
