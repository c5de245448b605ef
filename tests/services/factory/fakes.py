"""A fleet for tests: an encoder whose vectors are made of words, a manager that lists cards."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bus import Bus
from bus.memory import MemoryBus
from schemas import (
    AppliedSkill,
    CompletedRow,
    EncodeFailed,
    EncodeRequested,
    Event,
    ListedCard,
    Payload,
    SkillCard,
    SkillListed,
    SkillListRequested,
)
from services.runtime.service import Context, Service
from services.runtime.settings import Settings
from services.runtime.state import StateFolder
from tests.services.encoded import encoded

DIM = 48
Vector = npt.NDArray[np.float32]
Bend = Callable[[str, Vector], Vector]


def vector(text: str) -> Vector:
    """A bag of words, each word a random direction: texts that share words lie near."""
    total = np.zeros(DIM, np.float32)
    for word in text.lower().split() or [""]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        total += np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return (total / np.linalg.norm(total)).astype(np.float32)


class FakeFleet:
    """Answers `encode.requested` and `skill.list_requested`; remembers what it was asked."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.cards: dict[str, Bend] = {}
        """What each installed digest does to a vector."""
        self.routed: Callable[[str], str | None] = lambda text: None
        """With route auto: the digest that serves a text."""
        self.listed: list[ListedCard] = []
        self.asked: list[EncodeRequested] = []
        self.failing: str | None = None
        """A code with which every request is refused."""

    @property
    def texts(self) -> list[str]:
        """All texts it embedded."""
        return [text for request in self.asked for text in request.texts]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeFleet"]:
        async with self.bus.watch((EncodeRequested, SkillListRequested)) as events:
            task = asyncio.create_task(self._serve(events))
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _serve(self, events: Any) -> None:
        async for event in events:
            if isinstance(event.data, SkillListRequested):
                # As the manager does with long lists: in several parts.
                for part in [(card,) for card in self.listed] or [()]:
                    await self._answer(event, SkillListed(cards=part))
            else:
                await self._encode(event)

    async def _encode(self, event: Event[EncodeRequested]) -> None:
        data = event.data
        self.asked.append(data)
        unknown = [digest for digest in data.skills if digest not in self.cards]
        code = self.failing or ("unknown_skill" if unknown else None)
        if code is not None:
            failed = EncodeFailed(request_id=event.id, code=code, message=f"{code}: no")  # type: ignore[arg-type]
            await self._answer(event, failed)
            return
        rows, vectors = [], []
        for text in data.texts:
            bent, digests = vector(text), data.skills
            if data.route == "auto" and (digest := self.routed(text)) is not None:
                digests = (digest,)
            for digest in digests:
                bent = self.cards[digest](text, bent)
            applied = [AppliedSkill(name="birds", version=1, digest=d, score=1.0) for d in digests]
            rows.append(CompletedRow(skills=tuple(applied)))
            vectors.append(bent)
        await self._answer(event, *encoded(event.id, vectors, rows, "fake"))

    async def _answer(self, event: Event[Any], data: Payload, *attachments: bytes) -> None:
        await self.bus.publish(
            Event(
                data=data,
                source=self.bus.source,
                to=event.data.reply_to,
                correlation_id=event.id,
                attachments=attachments,
            )
        )


class Stage:
    """A bus with a fake fleet, and any number of services on it, killed or stopped at will."""

    def __init__(self, name: str, folder: Path, settings: Settings) -> None:
        self.name = name
        self.state = StateFolder(folder)
        self.settings = settings
        self.bus = MemoryBus(name, source="/test/1")
        self.fleet = FakeFleet(MemoryBus(name, source="/fleet/1"))

    @asynccontextmanager
    async def service(self, make: Callable[[Context], Service], name: str) -> AsyncIterator[Any]:
        """A running service on a connection of its own; leaving kills it without a drain."""
        async with MemoryBus(self.name, source=f"/{name}/1") as bus:
            made = make(Context(self.settings, bus, self.state))
            try:
                await made.setup()
                yield made
                if made.failure.done() and not made.failure.cancelled():
                    made.failure.result()
            finally:
                await made.aclose()

    async def said(self, *kinds: type[Payload]) -> list[Event[Any]]:
        """Everything journaled of some kinds, in order."""
        return list((await self.bus.read(kinds)).events)

    async def until(self, count: int, *kinds: type[Payload], within: float = 20.0) -> list[Any]:
        """Wait until so many events of some kinds are journaled; their data."""
        await until(lambda: self._count(kinds, count), within)
        return [event.data for event in await self.said(*kinds)]

    async def _count(self, kinds: Sequence[type[Payload]], count: int) -> bool:
        return len(await self.said(*kinds)) >= count


async def until(holds: Callable[[], Any], within: float = 20.0) -> None:
    """Wait until something holds; fails after `within` seconds."""
    async with asyncio.timeout(within):
        while True:
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def stage(folder: Path, settings: Settings | None = None) -> AsyncIterator[Stage]:
    """A stage with its fleet up."""
    made = Stage(folder.name, folder, settings or Settings())
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(made.bus)
        await stack.enter_async_context(made.fleet.bus)
        await stack.enter_async_context(made.fleet.running())
        yield made


def described(card: SkillCard, state: str = "installed") -> ListedCard:
    """A card as the manager lists it."""
    values = {name: getattr(card, name) for name in card.__struct_fields__}
    return ListedCard(**values, state=state)
