"""Cards that a test makes, and laying them into a running fleet."""

from __future__ import annotations

import asyncio

import numpy as np

from bus import Bus
from lora.card import Adapter, LoRACard
from lora.model import find_model
from lora.store import CardStore
from schemas import Event, SkillInstalled, SkillPublished, SkillRejected
from services.runtime.cards import describe
from tests.fleet import harness

DIM = harness.DIM


def head(name: str, seed: int, *, version: int = 1) -> LoRACard:
    random = np.random.default_rng(seed)
    adapter = Adapter(
        a=random.normal(0, 0.05, (DIM, 8)).astype(np.float32),
        b=random.normal(0, 0.05, (8, DIM)).astype(np.float32),
        rank=8,
        alpha=16.0,
    )
    return LoRACard(
        name=name,
        version=version,
        base_model=find_model().base_model,
        dim=DIM,
        modules={"embedding": adapter},
        description=f"made for a test, {name}",
    )


async def install(bus: Bus, fleet: harness.Fleet, card: LoRACard) -> LoRACard:
    stored = CardStore(fleet.state / "cards").put(card)
    async with bus.watch((SkillInstalled, SkillRejected), after=0) as events:
        await bus.publish(
            Event(data=SkillPublished(card=describe(stored), origin="test"), source=bus.source)
        )
        async with asyncio.timeout(30):
            async for event in events:
                data = event.data
                if isinstance(data, SkillRejected) and data.digest == stored.digest:
                    raise AssertionError(data.reason)
                if isinstance(data, SkillInstalled) and data.card.digest == stored.digest:
                    return stored
    raise AssertionError("the bus closed")
