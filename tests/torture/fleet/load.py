"""The clients: over the bus and over HTTP, in haste and patient, and some that come and go."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

from bus import BusError, RequestTimeout
from schemas import Event, FeedbackGiven
from services.errors import EncodeFailedError
from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.torture.fleet.domains import Piece, pieces
from tests.torture.fleet.faults import Chaos
from tests.torture.fleet.tally import GRACE, Lag, Request, Tally
from tests.torture.fleet.truth import Digests, Truth, fresh

__all__ = ["Asked", "Load"]

SIZES: Final = (1, 1, 1, 1, 2, 8, 30, 80)
DEADLINES: Final = (3.0, 8.0, 60.0, 60.0)
PAUSE: Final = (0.05, 0.35)
"""Seconds that a client thinks between two requests: from, to."""
BUS_CLIENTS, HTTP_CLIENTS = 4, 2
FEEDBACK_EVERY: Final = 1.2
"""Seconds between two pieces of feedback."""
VISIT: Final = 4.0
"""Seconds between two visitors."""
AWAY: Final = {429: "overloaded", 503: "away", 504: "deadline"}


@dataclass(frozen=True)
class Asked:
    """What a client is about to ask."""

    texts: tuple[str, ...]
    model: str
    deadline: float

    @property
    def route(self) -> str:
        """`base`, `auto` or `named`."""
        return self.model if self.model in ("base", "auto") else "named"

    @classmethod
    def draw(cls, truth: Truth, chance: random.Random) -> Asked:
        """Whatever comes next: half of the texts are known."""
        size = chance.choice(SIZES)
        texts = tuple(
            chance.choice(truth.texts) if chance.random() < 0.5 else fresh(chance)
            for _ in range(size)
        )
        model = chance.choice(["base", "auto", "auto", *truth.models.named])
        return cls(texts, model, chance.choice(DEADLINES))

    def wrong(self, truth: Truth, rows: Sequence[Digests]) -> str:
        """Whether other cards were applied than were asked for."""
        if self.route == "auto":
            return ""
        expected = () if self.route == "base" else truth.models.named[self.model]
        for digests in rows:
            if digests != expected:
                return f"{self.model} was asked for, {digests or 'the base model'} answered"
        return ""


@dataclass
class Load:
    """All clients of a fleet; `async with load.running():` lets them ask."""

    fleet: harness.Fleet
    truth: Truth
    seed: int
    chaos: Chaos | None = None
    tally: Tally = field(default_factory=Tally)
    lag: Lag = field(default_factory=Lag)
    attempted: set[str] = field(default_factory=set)
    """Ids of all feedback that was sent."""
    acknowledged: list[str] = field(default_factory=list)
    visits: int = 0
    in_vain: int = 0
    """Visits that found no broker."""

    def __post_init__(self) -> None:
        self._pieces = pieces(self.seed)
        self._round = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask until the block ends; what is under way then is heard to its end."""
        self._round += 1
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            buses = [
                await stack.enter_async_context(self.fleet.bus(f"/torture/{n}")) for n in (1, 2)
            ]
            web = await stack.enter_async_context(
                httpx.AsyncClient(base_url=str(self.fleet.api), timeout=120)
            )
            clients: list[Callable[[random.Random], Awaitable[None]]] = []
            for number in range(BUS_CLIENTS):
                clients.append(self._over_bus(FleetClient(buses[number % 2])))
            clients += [self._over_http(web)] * HTTP_CLIENTS
            clients += [self._visit]
            pauses = [PAUSE] * (BUS_CLIENTS + HTTP_CLIENTS) + [(VISIT / 2, VISIT)]
            lag = asyncio.create_task(self.lag.run())
            try:
                async with asyncio.TaskGroup() as group:
                    for number, (ask, pause) in enumerate(zip(clients, pauses, strict=True)):
                        group.create_task(self._client(number, ask, pause, stop))
                    group.create_task(self._give(buses[0], web, stop))
                    try:
                        yield
                    finally:
                        stop.set()
            finally:
                lag.cancel()

    async def _client(
        self,
        number: int,
        ask: Callable[[random.Random], Awaitable[None]],
        pause: tuple[float, float],
        stop: asyncio.Event,
    ) -> None:
        chance = random.Random(f"client {self.seed} {self._round} {number}")
        while not stop.is_set():
            await ask(chance)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(*pause)):
                    await stop.wait()

    # requests

    def _over_bus(self, client: FleetClient) -> Callable[[random.Random], Awaitable[None]]:
        async def ask(chance: random.Random) -> None:
            asked = Asked.draw(self.truth, chance)
            await self._judged(f"bus {asked.route}", asked, self._by_bus(client, asked))

        return ask

    async def _by_bus(self, client: FleetClient, asked: Asked) -> tuple[str, str]:
        named = asked.model.split("+") if asked.route == "named" else ()
        try:
            encoded = await client.encode(
                asked.texts,
                route=asked.route,  # type: ignore[arg-type]
                skills=named,
                deadline_ms=int(asked.deadline * 1000),
            )
        except EncodeFailedError as error:
            expected = error.code in ("deadline", "overloaded")
            return error.code if expected else f"{error.code}: {error}", ""
        except RequestTimeout:
            return "timeout", ""
        except BusError as error:
            return f"{type(error).__name__}: {error}", ""
        rows = [tuple(it.digest for it in row.skills) for row in encoded.rows]
        return "answered", self._wrong(asked, rows, encoded.vectors)

    def _over_http(self, web: httpx.AsyncClient) -> Callable[[random.Random], Awaitable[None]]:
        async def ask(chance: random.Random) -> None:
            asked = Asked.draw(self.truth, chance)
            await self._judged(f"http {asked.route}", asked, self._by_http(web, asked))

        return ask

    async def _by_http(self, web: httpx.AsyncClient, asked: Asked) -> tuple[str, str]:
        body = {
            "input": asked.texts,
            "model": asked.model,
            "encoding_format": "base64",
            "deadline_ms": int(asked.deadline * 1000),
        }
        try:
            # A little more than the deadline: it is the API that must answer by then.
            async with asyncio.timeout(asked.deadline + GRACE * 0.9):
                answer = await web.post("/v1/embeddings", json=body)
        except TimeoutError:
            return "gave up", ""
        except httpx.TransportError as error:
            return f"cut off ({type(error).__name__})", ""
        if answer.status_code in AWAY:
            return AWAY[answer.status_code], ""
        if answer.status_code != 200:
            return f"status {answer.status_code}: {answer.text[:200]}", ""
        data = answer.json()["data"]
        rows = [tuple(it["digest"] for it in one["consonance"]["skills"]) for one in data]
        raw = b"".join(base64.b64decode(one["embedding"]) for one in data)
        vectors = np.frombuffer(raw, "<f4").reshape(len(data), -1)
        return "answered", self._wrong(asked, rows, vectors)

    async def _visit(self, chance: random.Random) -> None:
        """A program that connects, asks once and leaves."""
        asked = Asked.draw(self.truth, chance)
        self.visits += 1
        try:
            async with self.fleet.bus(f"/visitor/{self.visits}", patience=5.0) as bus:
                await self._judged("visit", asked, self._by_bus(FleetClient(bus), asked))
        except BusError:
            self.in_vain += 1

    def _wrong(self, asked: Asked, rows: Sequence[Digests], vectors: NDArray[np.float32]) -> str:
        return asked.wrong(self.truth, rows) or self.truth.check(asked.texts, rows, vectors)

    async def _judged(self, kind: str, asked: Asked, asking: Any) -> None:
        started = time.monotonic()
        ending, wrong = await asking
        ended = time.monotonic()
        excused = False
        if kind.startswith("http") and ending != "answered":
            struck = self.chaos is not None and self.chaos.disturbed(["api"], started, ended)
            # Its door itself was shut: a client of HTTP sees that, and comes again.
            if struck and (ending == "gave up" or ending.startswith("cut off")):
                ending = "gave up"
            elif ending == "gave up":
                ending = "nothing was answered"
            # It says at once that the fleet is away, where a client of the bus would wait.
            excused = struck or ending == "away"
        self.tally.texts += len(asked.texts)
        self.tally.take(
            Request(
                kind,
                asked.deadline,
                ended - started,
                self.lag.since(started),
                ending,
                wrong,
                excused,
            )
        )

    # feedback

    async def _give(self, bus: Any, web: httpx.AsyncClient, stop: asyncio.Event) -> None:
        chance = random.Random(f"giver {self.seed} {self._round}")
        while not stop.is_set():
            piece = next(self._pieces)
            over = self._give_by_http(web, piece) if chance.random() < 0.3 else None
            await (over or self._give_by_bus(bus, piece))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FEEDBACK_EVERY):
                    await stop.wait()

    async def _give_by_bus(self, bus: Any, piece: Piece) -> None:
        """Until it is acknowledged, always the same event."""
        data = FeedbackGiven(
            query=piece.query,
            relevant=(piece.relevant,),
            irrelevant=piece.irrelevant,
            domain=piece.domain,
            served=(),
        )
        event: Event[FeedbackGiven] = Event(data=data, source=bus.source)
        self.attempted.add(event.id)
        while True:
            try:
                await bus.publish(event)
                break
            except BusError:
                await asyncio.sleep(0.5)
        self.acknowledged.append(event.id)

    async def _give_by_http(self, web: httpx.AsyncClient, piece: Piece) -> None:
        body = {
            "query": piece.query,
            "relevant": [piece.relevant],
            "irrelevant": piece.irrelevant,
            "domain": piece.domain,
            "served": [],
        }
        # Its id is the API's to make, from the key: sent again, it is the same piece.
        key = f"{piece.domain}/{piece.query}"
        while True:
            with contextlib.suppress(httpx.TransportError, TimeoutError):
                async with asyncio.timeout(20):
                    answer = await web.post(
                        "/v1/feedback", json=body, headers={"Idempotency-Key": key}
                    )
                if answer.status_code == 202:
                    break
            await asyncio.sleep(0.5)
        id = answer.json()["id"]
        self.attempted.add(id)
        self.acknowledged.append(id)
