"""The API's process on a real socket, over a memory bus on which somebody plays the fleet."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import numpy as np

from bus import Bus, MemoryBus
from schemas import (
    AppliedSkill,
    BaseModelRef,
    CompletedRow,
    EncodeCompleted,
    EncodeFailed,
    EncodeRequested,
    Event,
    FleetHeartbeat,
    ListedCard,
    SkillListed,
    SkillListRequested,
)
from services.api.keys import KeyStore
from services.api.service import ApiService
from services.runtime.service import Context
from services.runtime.settings import Settings
from services.runtime.state import StateFolder
from services.runtime.vectors import to_stream

DIM = 24


def digest(text: str) -> str:
    """What looks like a card's digest."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def vector(text: str, skills: tuple[str, ...] = ()) -> np.ndarray:
    """The unit vector of a text under these skills: always the same, unlike any other."""
    seed = hashlib.sha256("\n".join((text, *skills)).encode()).digest()
    found = np.random.default_rng(list(seed)).normal(size=DIM)
    return (found / np.linalg.norm(found)).astype(np.float32)


def card(name: str, version: int = 1, **fields: Any) -> ListedCard:
    """A card as the manager lists it."""
    given: dict[str, Any] = {
        "name": name,
        "version": version,
        "digest": digest(f"{name}@{version}"),
        "bytes": 12_345,
        "rank": 8,
        "alpha": 16.0,
        "target_modules": ("embedding",),
        "base_model": BaseModelRef(id="model", sha256="0" * 64),
        "applies_to": ("query",),
        "description": f"about {name}",
        "prototypes": "AAAA",
        "threshold": 0.5,
        "metrics": {"before": 0.5, "after": 0.7, "gain": 0.2, "low": 0.1, "high": 0.3},
        "created": "2026-01-02T03:04:05+00:00",
        "parents": (),
        "state": "installed",
    }
    return ListedCard(**(given | fields))


class Player:
    """Plays router, encoder and manager, as far as a client sees them.

    A text tells how it is answered: `late` never, `overloaded`, `internal`, `too large` and
    `invalid` by an error of that code, `slow` once `release` is set; anything else by its vector.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._tasks: set[asyncio.Task[None]] = set()
        self.forget()

    def forget(self) -> None:
        """As it was at the start."""
        self.cards: list[ListedCard] = []
        self.asked: list[EncodeRequested] = []
        self.lists = True
        self.release = asyncio.Event()

    async def start(self) -> None:
        """Listen, and say that all that is needed is ready."""
        live = asyncio.Event()
        self._spawn(self._hear(live))
        await live.wait()
        await self.beat()

    async def beat(self, *services: str, state: str = "ready") -> None:
        """A heartbeat of each service; of all that are needed where none is named."""
        for name in services or ("broker", "router", "encoder"):
            data = FleetHeartbeat(
                service=name, instance="1", pid=1, state=state, queue=0, rss_bytes=1, counters={}
            )
            await self.bus.publish(Event(data=data, source=f"/{name}/1"))

    async def aclose(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hear(self, live: asyncio.Event) -> None:
        async with self.bus.watch((EncodeRequested, SkillListRequested)) as events:
            live.set()
            async for event in events:
                if isinstance(event.data, EncodeRequested):
                    self._spawn(self._encode(event))
                elif self.lists:
                    await self._say(event, SkillListed(cards=tuple(self.cards)))

    async def _say(self, cause: Event[Any], data: Any, *attachments: bytes) -> None:
        await self.bus.publish(
            Event(
                data=data,
                source=self.bus.source,
                to=cause.data.reply_to,
                correlation_id=cause.id,
                attachments=attachments,
            )
        )

    async def _encode(self, event: Event[EncodeRequested]) -> None:
        data = event.data
        self.asked.append(data)
        if "late" in data.texts:
            return
        if "slow" in data.texts:
            await self.release.wait()
        for code in ("overloaded", "internal", "too large", "invalid"):
            if code in data.texts:
                await self._fail(event, code.replace(" ", "_"), f"the router says: {code}")
                return
        known = {one.name: one for one in self.cards}
        for name in data.skills:
            if name.partition("@")[0].rpartition("/")[2] not in known:
                await self._fail(event, "unknown_skill", f"skill {name!r} is unknown")
                return
        chosen = [known[name.partition("@")[0].rpartition("/")[2]] for name in data.skills]
        skills = tuple(
            AppliedSkill(name=one.name, version=one.version, digest=one.digest, score=1.0)
            for one in chosen
        )
        reason = None if skills else "base_requested" if data.route == "base" else "no_skills"
        answer = EncodeCompleted(
            request_id=event.id,
            model="model",
            dim=DIM,
            rows=tuple(CompletedRow(skills=skills, reason=reason) for _ in data.texts),
            tokens=sum(len(text.split()) for text in data.texts),
            queue_ms=1.0,
            compute_ms=2.0,
            attachments=("embedding",),
        )
        await self._say(
            event, answer, to_stream(np.stack([vector(t, data.skills) for t in data.texts]))
        )

    async def _fail(self, event: Event[EncodeRequested], code: Any, message: str) -> None:
        failed = EncodeFailed(request_id=event.id, code=code, message=message, retry_after_ms=1500)
        await self._say(event, failed)


class Door:
    """A running API: the service, a client of it, and who plays the fleet behind it."""

    def __init__(self, service: ApiService, player: Player, client: httpx.AsyncClient) -> None:
        self.service = service
        self.player = player
        self.client = client
        self.url = service.url

    @property
    def keys(self) -> KeyStore:
        """The keys that this API heeds."""
        return KeyStore.of(self.service.state.root)

    async def embed(
        self, input: Any = "a text", model: Any = "base", **more: Any
    ) -> httpx.Response:
        """`POST /v1/embeddings`."""
        return await self.client.post(
            "/v1/embeddings", json={"input": input, "model": model, **more}
        )


@asynccontextmanager
async def opened(folder: Path, *, ready: bool = True, **api: Any) -> AsyncIterator[Door]:
    """The API over a memory bus of its own; `api` are keys of its section of the settings."""
    own = msgspec.structs.replace(Settings().api, **{"port": _free(), **api})
    settings = msgspec.structs.replace(Settings(), api=own)
    name = uuid4().hex
    async with (
        MemoryBus(name, source="/router/1") as behind,
        MemoryBus(name, source="/api/1", patience=1.0) as bus,
    ):
        player = Player(behind)
        service = ApiService(Context(settings, bus, StateFolder(folder)))
        try:
            await service.setup()
            await player.start()
            async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                while ready and (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.005)
                yield Door(service, player, client)
        finally:
            player.release.set()
            await service.drain()
            await service.aclose()
            await player.aclose()


def _free() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
