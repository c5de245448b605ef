"""A client of the fleet: encode, list skills, give feedback; over the bus as any other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
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
    FleetHeartbeat,
    ListedCard,
    Payload,
    Role,
    SkillDiscovered,
    SkillListed,
    SkillListRequested,
    address_of,
    now,
)
from services.errors import EncodeFailedError, NotFederatingError, NotLearningError
from services.runtime.several import several
from services.runtime.tracing import here
from services.runtime.vectors import from_stream

__all__ = ["Encoded", "FleetClient"]

Route = Literal["auto", "named", "base"]

MAX_BYTES: Final = 512 << 10
"""JSON of the texts of one request; an event may have 1 MiB."""

RESEND: Final = 2.0
"""Seconds after which a list is asked for again; doubles each time."""

LEARNING: Final = ("dissonance_monitor", "distiller", "factory")
"""The services without which feedback teaches nothing."""

SILENCE: Final = 6.0
"""Seconds without a heartbeat after which a process is taken for gone."""


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

    Long lists travel as several requests of at most `chunk` texts (fewer where they are long),
    `in_flight` at a time.
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
        _check_unicode((*texts, intent or ""))
        allowed = deadline_ms or self.deadline_ms

        async def one(part: Sequence[str]) -> tuple[EncodeCompleted, NDArray[np.float32]]:
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

        parts = list(_parts(texts, self.chunk))
        answers = await several(one, parts, at_once=self.in_flight)
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
            event = self._event(data, time=start)
            left = ends - now().timestamp()
            if left <= 0:
                raise RequestTimeout(f"no answer within {data.deadline_ms} ms")
            answer = await self.bus.request(event, (EncodeCompleted, EncodeFailed), timeout=left)
            failed = answer.data
            if isinstance(failed, EncodeCompleted):
                return failed, from_stream(answer.attachments[0])
            pause = max(failed.retry_after_ms or 0, 50) / 1000
            if failed.code != "overloaded" or now().timestamp() + pause >= ends:
                raise EncodeFailedError(failed.code, failed.message, failed.retry_after_ms)
            await asyncio.sleep(pause)

    async def skills(self, *, timeout: float = 10.0) -> tuple[ListedCard, ...]:
        """The cards that the manager knows, with their state; raises `bus.RequestTimeout`."""
        loop = asyncio.get_running_loop()
        ends, pause = loop.time() + timeout, RESEND
        found: dict[str, dict[int, tuple[ListedCard, ...]]] = {}
        async with self.bus.watch(SkillListed) as answers:
            while (left := ends - loop.time()) > 0:
                # A new question each time: parts of two lists are not to be mixed.
                asked = Event(
                    data=SkillListRequested(reply_to=self.bus.address), source=self.bus.source
                )
                found[asked.id] = {}
                await self.bus.publish(asked)
                again = min(ends, loop.time() + pause)
                pause *= 2
                while (left := again - loop.time()) > 0:
                    try:
                        answer = await answers.get(timeout=left)
                    except TimeoutError:
                        break
                    parts = found.get(answer.correlation_id or "")
                    if parts is None:
                        continue  # somebody else's question, under the same name
                    parts[answer.data.part] = answer.data.cards
                    if len(parts) >= answer.data.parts:
                        return tuple(card for number in sorted(parts) for card in parts[number])
        raise RequestTimeout(f"the adapter manager did not list its skills within {timeout:g} s")

    async def enable_evolution(self, *, timeout: float = SILENCE) -> None:
        """Return once everything that learns from feedback is at work.

        The processes belong to whoever runs the fleet: where one does not say within `timeout`
        seconds that it is ready, this raises `NotLearningError`, which names it.
        """
        states: dict[str, str] = {}
        missing = list(LEARNING)
        try:
            async with asyncio.timeout(timeout), self.bus.watch(FleetHeartbeat) as beats:
                while missing:
                    beat = (await beats.get()).data
                    states[beat.service] = beat.state
                    missing = [name for name in LEARNING if states.get(name) != "ready"]
        except TimeoutError as error:
            told = " and ".join(f"{name} ({states.get(name, 'not running')})" for name in missing)
            raise NotLearningError(
                f"this fleet does not learn now: not ready within {timeout:g} s: {told}; "
                "run_all.py runs them all"
            ) from error

    async def start_federation(self, port: int | None = None, *, timeout: float = SILENCE) -> int:
        """Return once the gateway serves this fleet's skills to its peers; the port it listens on.

        The process belongs to whoever runs the fleet: where it does not federate within `timeout`
        seconds, or listens on another port than `port`, this raises `NotFederatingError`.
        """
        state = "it does not run: federation.enabled may be false"
        try:
            async with asyncio.timeout(timeout), self.bus.watch(FleetHeartbeat) as beats:
                async for event in beats:
                    beat = event.data
                    if beat.service != "federation":
                        continue
                    if beat.counters.get("federating"):
                        found = int(beat.counters.get("port", 0))
                        break
                    state = f"its gateway is {beat.state} and its log says why it does not"
        except TimeoutError as error:
            raise NotFederatingError(f"this fleet does not federate now: {state}") from error
        if port not in (None, 0, found):
            raise NotFederatingError(
                f"this fleet's gateway listens on port {found}, not {port}: set federation.port"
            )
        return found

    async def sync_remote_skills(self, *, timeout: float = SILENCE) -> tuple[SkillDiscovered, ...]:
        """What peers offer now: each is used like a skill that is here, by meaning or `peer/name`.

        Raises `NotFederatingError` where there is no gateway that could tell.
        """
        await self.start_federation(timeout=timeout)
        found: dict[tuple[str, str], SkillDiscovered] = {}
        kinds = (SkillDiscovered, FleetHeartbeat)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self.bus.watch(kinds) as events:
                # Whoever builds an index asks for the list, and the gateway repeats its offers.
                wish = SkillListRequested(reply_to=address_of(self.bus.source))
                asked = Event(data=wish, source=self.bus.source)
                await self.bus.publish(asked)
                async for event in events:
                    data = event.data
                    if isinstance(data, SkillDiscovered):
                        found[data.peer, data.card.digest] = data
                    elif (
                        data.service == "federation"
                        and event.time > asked.time
                        and len(found) >= data.counters.get("offers", 0)
                    ):
                        break
        return tuple(found.values())

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
        event = self._event(data)
        await self.bus.publish(event)
        return event.id

    def _event(self, data: Payload, **fields: Any) -> Event[Any]:
        """A new event, which belongs to what the caller is working on."""
        origin = here()
        return Event(
            data=data,
            source=self.bus.source,
            correlation_id=origin.correlation_id,
            causation_id=origin.causation_id,
            traceparent=origin.traceparent,
            **fields,
        )


def _check_unicode(texts: Sequence[str]) -> None:
    """Raise `EncodeFailedError` (`invalid`) as the wire would: no JSON can carry such a text."""
    for place, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            which = f"text {place}" if place < len(texts) - 1 else "the intent"
            raise EncodeFailedError(
                "invalid", f"{which} holds half of a surrogate pair, which is no Unicode"
            ) from error


def _parts(texts: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Stretches of at most `most` texts that fit into an event; one empty one of none."""
    start, size = 0, 0
    for place, text in enumerate(texts):
        length = len(msgspec.json.encode(text)) + 1
        if place > start and (place - start >= most or size + length > MAX_BYTES):
            yield texts[start:place]
            start, size = place, 0
        size += length
    yield texts[start:]
