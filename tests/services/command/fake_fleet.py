"""A real broker, and what stands for the services behind it: in a thread, over its own sockets.

The command runs in the test's thread or in a process of its own, as it does in life.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from bus import BrokerSettings, Bus, connect
from bus.broker import Broker
from schemas import (
    AppliedSkill,
    BaseModelRef,
    CompletedRow,
    DomainForget,
    DomainForgotten,
    EncodeCompleted,
    EncodeFailed,
    EncodeRequested,
    Event,
    FleetHeartbeat,
    ListedCard,
    SkillInstalled,
    SkillListed,
    SkillListRequested,
    SkillPin,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    SkillRetired,
)
from services.runtime.vectors import to_stream

T = TypeVar("T")
DIM = 6
STORES = ("dissonance_monitor", "distiller", "factory", "journal")


def listed(name: str, version: int = 1, state: str = "installed", **fields: Any) -> ListedCard:
    """A card as the manager lists it."""
    hexes = hashlib.sha256(f"{name}@{version}{fields.get('peer', '')}".encode()).hexdigest()
    given = {
        "digest": f"sha256:{hexes}",
        "bytes": 1000,
        "rank": 4,
        "alpha": 8.0,
        "target_modules": ("embedding",),
        "base_model": BaseModelRef(id="tiny", sha256="a" * 64),
        "applies_to": ("query",),
        "description": f"about {name}",
        "prototypes": "cHJvdG90eXBlcw==",
        "threshold": 0.5,
        "metrics": {"gain": 0.1, "low": 0.05, "high": 0.15},
        "created": f"2026-01-0{version}T00:00:00Z",
        "parents": (),
    }
    return ListedCard(**{**given, "name": name, "version": version, "state": state, **fields})


def vectors_of(texts: tuple[str, ...]) -> np.ndarray:
    """The same six numbers for the same text, whoever asks."""
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:24], "<u4") for text in texts]
    return (np.stack(rows) / 2**32).astype(np.float32)


class FakeFleet:
    """`with FakeFleet(root) as fleet:`; its `state` is what `--state` names."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.url = f"ipc://{self.state / 'bus'}"
        self.cards = [listed("bank"), listed("slang", 2), listed("slang", 1, "kept")]
        self.forgetful: tuple[str, ...] = STORES
        """Stores that do forget a domain."""
        self.silent = False
        """Nobody answers an encode request."""
        self.asked: list[EncodeRequested] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> FakeFleet:
        self._thread.start()
        self.do(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run something in the fleet's own thread, and wait for it."""

        async def whole() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(whole(), self._loop).result(20)

    def publish(self, *events: Event[Any]) -> None:
        self.do(lambda: self.bus.publish(*events))

    def say(self, data: Any) -> Event[Any]:
        event = Event(data=data, source="/fake/1")
        self.publish(event)
        return event

    def journal(self) -> list[Event[Any]]:
        return list(self.do(lambda: self.bus.read()).events)

    async def _start(self) -> None:
        settings = BrokerSettings(heartbeat_seconds=0.2)
        (self.state / "cards").mkdir(mode=0o700, parents=True)
        self.state.chmod(0o700)
        self._broker = await Broker(self.url, self.state, settings).__aenter__()
        self.bus: Bus = await connect(self.url, source="/fake/1")
        kinds = (
            *(EncodeRequested, SkillListRequested, SkillPublished),
            *(SkillRetire, SkillPin, DomainForget),
        )
        self._events = await self.bus.watch(kinds).__aenter__()
        self._tasks = [asyncio.create_task(work) for work in (self._serve(), self._beat())]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._events.__aexit__(None, None, None)
        await self.bus.aclose()
        await self._broker.aclose()

    async def _beat(self) -> None:
        while True:
            for service, instance in (("router", "1"), ("encoder", "1"), ("encoder", "2")):
                beat = FleetHeartbeat(
                    service=service,
                    instance=instance,
                    pid=4711,
                    state="ready",
                    queue=3,
                    rss_bytes=50 << 20,
                    counters={},
                )
                await self.bus.publish(Event(data=beat, source=f"/{service}/{instance}"))
            await asyncio.sleep(0.2)

    async def _serve(self) -> None:
        async for event in self._events:
            for ordinal, (data, to) in enumerate(self._answers(event)):
                attachments = ()
                if isinstance(data, EncodeCompleted):
                    attachments = (to_stream(vectors_of(event.data.texts)),)
                answer = event.derive(
                    data, source="/fake/1", ordinal=ordinal, to=to, attachments=attachments
                )
                await self.bus.publish(msgspec.structs.replace(answer, correlation_id=event.id))

    def _answers(self, event: Event[Any]) -> list[tuple[Any, str | None]]:
        data = event.data
        if isinstance(data, EncodeRequested):
            self.asked.append(data)
            return [] if self.silent else [(self._encoded(event.id, data), data.reply_to)]
        if isinstance(data, SkillListRequested):
            return [(SkillListed(cards=tuple(self.cards)), data.reply_to)]
        if isinstance(data, SkillPublished):
            return [(self._judged(data), None)]
        if isinstance(data, SkillRetire):
            self._change(data.digest, state="retired")
            left = [card for card in self.cards if card.state in ("installed", "kept")]
            after = next((card.digest for card in left if card.name == data.name), None)
            fields = msgspec.structs.asdict(data) | {"successor": after}
            return [(SkillRetired(**fields), None)]
        if isinstance(data, SkillPin):
            self._change(data.digest, pinned=data.pinned)
            return []
        return [
            (DomainForgotten(domain=data.domain, service=name, erased=3), None)
            for name in self.forgetful
        ]

    def _encoded(self, name: str, data: EncodeRequested) -> Any:
        known = {card.name: card for card in reversed(self.cards)}
        for skill in data.skills:
            if skill not in known:
                message = f"skill {skill!r} is unknown"
                return EncodeFailed(request_id=name, code="unknown_skill", message=message)
        applied = tuple(
            AppliedSkill(
                name=skill, version=known[skill].version, digest=known[skill].digest, score=1.0
            )
            for skill in data.skills
        )
        row = CompletedRow(skills=applied, reason=None if applied else "no_skills")
        return EncodeCompleted(
            request_id=name,
            model="tiny",
            dim=DIM,
            rows=(row,) * len(data.texts),
            tokens=len(data.texts),
            queue_ms=0.0,
            compute_ms=1.0,
            attachments=("embedding",),
        )

    def _judged(self, data: SkillPublished) -> Any:
        card = data.card
        if card.name.startswith("bad"):
            return SkillRejected(name=card.name, digest=card.digest, reason="no encoder takes it")
        fields = msgspec.structs.asdict(card)
        self.cards.insert(0, ListedCard(**fields, state="installed"))
        return SkillInstalled(card=card)

    def _change(self, digest: str, **fields: Any) -> None:
        self.cards = [
            msgspec.structs.replace(card, **fields) if card.digest == digest else card
            for card in self.cards
        ]
