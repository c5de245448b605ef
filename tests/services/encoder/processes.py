"""Services in one process over a memory bus, for the tests of encoder, manager and router."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import numpy as np

from bus import Bus, connect
from lora.card import Adapter, BaseModel, LoRACard
from lora.model import DEFAULT_ID, DEFAULT_SHA256
from lora.store import CardStore
from schemas import Event, FleetHeartbeat, Payload, SkillPublished
from services.runtime.cards import describe
from services.runtime.client import FleetClient
from services.runtime.service import Context, Service
from services.runtime.settings import Settings
from services.runtime.state import StateFolder

BEAT = 0.2
DIM = 384
MINILM = BaseModel(DEFAULT_ID, DEFAULT_SHA256)

S = TypeVar("S", bound=Service)


def settings(**sections: dict[str, Any]) -> Settings:
    """The defaults, with some keys of some sections changed."""
    default = Settings()
    changed = {
        name: msgspec.structs.replace(getattr(default, name), **keys)
        for name, keys in sections.items()
    }
    return msgspec.structs.replace(default, **changed)


def head(seed: int, *, rank: int = 4) -> Adapter:
    random = np.random.default_rng(seed)
    return Adapter(
        (random.normal(size=(DIM, rank)) * 0.1).astype(np.float32),
        (random.normal(size=(rank, DIM)) * 0.1).astype(np.float32),
        rank,
        float(2 * rank),
    )


def skill(
    name: str, version: int = 1, *, seed: int = 0, body: bool = False, **fields: Any
) -> LoRACard:
    """A card of the default model: a head, and on request a body too."""
    modules = {"embedding": head(seed)}
    if body:
        modules["encoder.layer.0.attention.self.query"] = head(seed + 1)
    given: dict[str, Any] = {"base_model": MINILM, "dim": DIM, "modules": modules}
    return LoRACard(**{**given, "name": name, "version": version, **fields})


async def until(
    holds: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, seconds: float = 20.0
) -> None:
    """Wait for a condition; fails with `what` after the deadline."""
    ends = time.monotonic() + seconds
    while True:
        found: Any = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        if time.monotonic() > ends:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        await asyncio.sleep(0.01)


@cache
def engine(number: int) -> Any:
    """A model that the tests of a run share: loading one takes seconds."""
    from lora.engine import ArrowEngine

    return ArrowEngine(threads=1, batch_tokens=4096)


class Ear:
    """Everything of some types that was said, in order."""

    def __init__(self) -> None:
        self.events: list[Event[Any]] = []
        self.task: asyncio.Task[None] | None = None

    def of(self, kind: type[Payload]) -> list[Event[Any]]:
        return [event for event in self.events if isinstance(event.data, kind)]

    async def first(self, kind: type[Payload], number: int = 1) -> Event[Any]:
        await until(lambda: len(self.of(kind)) >= number, f"{number} {kind.type}")
        return self.of(kind)[number - 1]


class Processes:
    """Services, each with a bus of its own; heartbeats as the runtime sends them, only faster."""

    def __init__(self, root: Path) -> None:
        self.url = f"memory://{uuid4().hex}"
        self.state = StateFolder(root)
        self.store = CardStore(self.state.cards)
        self.services: dict[str, Service] = {}
        self._beats: dict[str, asyncio.Task[None]] = {}
        self._buses: list[Bus] = []
        self._ears: list[Ear] = []
        self._pid = 1000
        self._engines = 0

    async def bus(self, source: str) -> Bus:
        bus = await connect(self.url, source=source)
        self._buses.append(bus)
        return bus

    async def client(self, name: str = "1", **options: Any) -> FleetClient:
        return FleetClient(await self.bus(f"/client/{name}"), **options)

    async def ear(self, *kinds: type[Payload], to: str | None = None) -> Ear:
        """Hear these types from now on."""
        bus, ear = await self.bus(f"/ear/{uuid4().hex[:8]}"), Ear()
        live = asyncio.get_running_loop().create_future()

        async def listen() -> None:
            async with bus.watch(kinds, to=to) as events:
                live.set_result(None)
                async for event in events:
                    ear.events.append(event)

        ear.task = asyncio.create_task(listen())
        self._ears.append(ear)
        await live
        return ear

    async def start(
        self,
        kind: type[S],
        instance: str = "1",
        *,
        settings: Settings | None = None,
        beats: bool = True,
        own_engine: bool = False,
    ) -> S:
        bus = await self.bus(f"/{kind.name}/{instance}")
        service = kind(Context(settings or Settings(), bus, self.state, instance))
        self.services[service.address] = service
        if hasattr(service, "_load") and not own_engine:
            shared = engine(self._engines % 2)
            self._engines += 1
            service._load = lambda: shared
        await service.setup()
        self._pid += 1
        if beats:
            self._beats[service.address] = asyncio.create_task(self._beat(service, self._pid))
            await asyncio.sleep(0)
        return service

    async def _beat(self, service: Service, pid: int) -> None:
        while True:
            await self.beat(service, pid)
            await asyncio.sleep(BEAT)

    async def beat(self, service: Service, pid: int, state: str = "ready") -> None:
        await service.say(
            FleetHeartbeat(
                service=service.name,
                instance=service.instance,
                pid=pid,
                state=state,
                queue=service.queue,
                rss_bytes=1,
                counters=dict(service.counters),
            )
        )

    async def mute(self, service: Service) -> None:
        """No more heartbeats: as if it had died or frozen."""
        task = self._beats.pop(service.address)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def kill(self, service: Service) -> None:
        """Gone without a word; what it had in hand is lost."""
        if service.address in self._beats:
            await self.mute(service)
        del self.services[service.address]
        for task in (*service._tasks, *getattr(service, "_side", ())):
            task.cancel()
        await service.aclose()
        await service.bus.aclose()

    async def publish(self, card: LoRACard, *, to_store: bool = True) -> Event[SkillPublished]:
        """Lay a card into the store and tell of it, as the factory does."""
        stored = self.store.put(card) if to_store else card
        bus = await self.bus("/factory/1")
        event: Event[SkillPublished] = Event(
            data=SkillPublished(card=describe(stored), origin="test"), source="/factory/1"
        )
        await bus.publish(event)
        return event

    async def aclose(self) -> None:
        tasks = [*self._beats.values(), *(ear.task for ear in self._ears if ear.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for service in self.services.values():
            failed = service.failure.done() and not service.failure.cancelled()
            error = service.failure.exception() if failed else None
            await service.aclose()
            assert error is None, f"{service.address} crashed: {error!r}"
        for bus in self._buses:
            await bus.aclose()


def applied(rows: Sequence[Any]) -> list[tuple[str, ...]]:
    """The names of the cards that made each row."""
    return [tuple(skill.name for skill in row.skills) for row in rows]
