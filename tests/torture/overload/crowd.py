"""A crowd of clients over a few connections, each with a source and an address of its own."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Final

import msgspec

import schemas
from bus.urls import endpoints
from bus.zeromq import ZeroMQLink
from schemas import EncodeRequested, Event

__all__ = ["Asked", "Crowd", "Mix", "Shape"]

RESEND: Final = 2.0
"""Seconds after which a client that has heard nothing asks again; doubles each time."""

SLICE: Final = 0.005
"""Seconds between two looks at who is to ask now."""

ANSWERS: Final = ("encode.completed", "encode.failed")
REFUSED: Final = "event.refused"

_WORDS: Final = (
    *("invoice", "refund", "parcel", "letter", "account", "branch", "card", "ledger", "queue"),
    *("notice", "form", "desk", "transfer", "limit", "budget", "order", "seal", "office", "window"),
)


class _Data(msgspec.Struct):
    request_id: str = ""
    id: str = ""
    code: str = ""
    retry_after_ms: int | None = None


class _Heard(msgspec.Struct):
    """As much of an answer as a client of the crowd looks at."""

    type: str
    data: _Data
    time: datetime | None = None


@dataclass(frozen=True)
class Shape:
    """What a request is like."""

    name: str
    texts: int = 1
    bytes: int = 0
    """Of each text; 0: a short query."""


@dataclass(frozen=True)
class Mix:
    """A shape, and how large its share of the requests is."""

    shape: Shape
    share: float


@dataclass(eq=False)
class Asked:
    """One request of one client, and what became of it."""

    client: int
    shape: Shape
    at: float
    """When it was first sent; seconds, monotonic."""
    until: float
    """Its deadline, likewise."""
    done: float | None = None
    """When its first answer came."""
    code: str = ""
    """`completed`, or the code of the refusal."""
    retry_after_ms: int | None = None
    sends: int = 1
    frames: list[bytes] = field(default_factory=list, repr=False)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.done or self.until) - self.at


class Crowd:
    """`async with Crowd(url, 1000) as crowd:`; answers find their request by address and id."""

    def __init__(self, url: str, clients: int, *, links: int = 4, name: str = "crowd") -> None:
        self._url = url
        # Of one width: topics match by their beginning, and 1 would hear what is for 10 and 100.
        self._names = [f"/{name}/{number:05d}" for number in range(clients)]
        self._addresses = [schemas.address_of(source) for source in self._names]
        self._count = links
        self._links: list[ZeroMQLink] = []
        self._open: dict[str, Asked] = {}
        self._again: list[tuple[float, int, str]] = []
        self._made = 0
        self._waiting: dict[str, asyncio.Future[Asked]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self.asked: list[Asked] = []
        self.dropped = 0
        """Sends that the connection had no room for."""
        self.late = 0
        """Answers that came twice, or to what was over."""
        self.lag = 0.0
        """The longest that the crowd itself was behind with asking; seconds."""
        self.hearing = 0.0
        """The longest that an answer was under way to it; seconds."""

    async def __aenter__(self) -> Crowd:
        places = endpoints(self._url)
        for number in range(self._count):
            link = ZeroMQLink(self._url, places, name=f"crowd-{number}")
            link.on_message = self._heard
            link.on_stray = lambda body: None
            self._links.append(link)
            await link.open(30.0)
        for number, address in enumerate(self._addresses):
            link = self._link(number)
            for kind in ANSWERS:
                link.subscribe(f"{kind}@{address}")
            link.subscribe(f"{REFUSED}@{self._names[number]}")
        for link in self._links:
            await link.confirm(30.0)
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for link in self._links:
            await link.aclose()

    def _link(self, client: int) -> ZeroMQLink:
        return self._links[client % self._count]

    # Asking -----------------------------------------------------------------------------------

    def ask(self, client: int, shape: Shape, random: Random, *, deadline_ms: int) -> str:
        """Send one request; its id. No two have a text in common."""
        self._made += 1
        id = f"{client}.{self._made}"
        data = EncodeRequested(
            texts=tuple(self._text(shape, place, random) for place in range(shape.texts)),
            reply_to=self._addresses[client],
            route="base",
            deadline_ms=deadline_ms,
        )
        event: Event[Any] = Event(data=data, source=self._names[client], id=id)
        now = time.monotonic()
        entry = Asked(client, shape, now, now + deadline_ms / 1000, frames=schemas.frames(event))
        self.asked.append(entry)
        self._open[id] = entry
        self._send(entry)
        heapq.heappush(self._again, (now + RESEND, 1, id))
        return id

    async def once(
        self, client: int, shape: Shape, random: Random, *, deadline_ms: int = 30_000
    ) -> Asked:
        """Send one request and wait until it is over."""
        id = self.ask(client, shape, random, deadline_ms=deadline_ms)
        over = asyncio.get_running_loop().create_future()
        self._waiting[id] = over
        return await over

    async def flood(
        self,
        rate: Callable[[float], float],
        seconds: float,
        weights: Sequence[float],
        mixes: Sequence[Mix],
        random: Random,
        *,
        deadline_ms: Sequence[int],
        tell: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Ask at random, `rate(second)` requests a second, whoever is answered or not.

        Client `n` asks in proportion to `weights[n]`; `deadline_ms` are drawn from.
        """
        clients = range(len(weights))
        shapes = [mix.shape for mix in mixes]
        shares = [mix.share for mix in mixes]
        start = time.monotonic()
        due = start + random.expovariate(rate(0.0))
        while (now := time.monotonic()) < start + seconds:
            self.lag = max(self.lag, now - due)
            wanted = 0
            while due <= now:
                wanted += 1
                due += random.expovariate(rate(due - start))
            who = random.choices(clients, weights, k=wanted)
            what = random.choices(shapes, shares, k=wanted)
            for client, shape in zip(who, what, strict=True):
                self.ask(client, shape, random, deadline_ms=random.choice(deadline_ms))
            tell(now - start)
            await asyncio.sleep(SLICE)

    async def settled(self, seconds: float) -> None:
        """Wait until nothing is open, at most so long."""
        end = time.monotonic() + seconds
        while self._open and time.monotonic() < end:
            await asyncio.sleep(0.05)

    @property
    def open(self) -> int:
        """Requests that are neither over nor late."""
        return len(self._open)

    def _text(self, shape: Shape, place: int, random: Random) -> str:
        words = " ".join(random.choices(_WORDS, k=6))
        text = f"{words} {self._made} {place}"
        return text if not shape.bytes else (text + " ").ljust(shape.bytes, "x")

    def _send(self, entry: Asked) -> None:
        if not self._link(entry.client).send(entry.frames):
            self.dropped += 1

    # Hearing ----------------------------------------------------------------------------------

    def _heard(self, message: Sequence[bytes]) -> None:
        heard = msgspec.json.decode(message[1], type=_Heard)
        data = heard.data
        id = data.id if heard.type == REFUSED else data.request_id
        entry = self._open.get(id)
        if entry is None:
            self.late += 1
            return
        entry.code = data.code or "completed"
        entry.retry_after_ms = data.retry_after_ms
        if heard.time is not None:
            self.hearing = max(self.hearing, time.time() - heard.time.timestamp())
        self._over(id, entry, time.monotonic())

    def _over(self, id: str, entry: Asked, now: float | None) -> None:
        entry.done = now
        entry.frames = []
        self._open.pop(id, None)
        over = self._waiting.pop(id, None)
        if over is not None and not over.done():
            over.set_result(entry)

    async def _sweep(self) -> None:
        """Ask again where nothing was heard, give up a moment after the deadline."""
        while True:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            while self._again and self._again[0][0] <= now:
                _, sends, id = heapq.heappop(self._again)
                entry = self._open.get(id)
                if entry is None:
                    continue
                if now >= entry.until + GRACE:
                    self._over(id, entry, None)
                    continue
                if now < entry.until:
                    entry.sends += 1
                    self._send(entry)
                pause = min(RESEND * 2**sends, max(entry.until + GRACE - now, 0.0))
                heapq.heappush(self._again, (now + pause, sends + 1, id))


GRACE: Final = 1.5
"""Seconds after a deadline within which the word of it must have arrived."""
