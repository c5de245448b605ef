"""Router, manager and two encoders with the real model, in one process."""

from typing import Any

import numpy as np

from bus import Bus
from lora.card import LoRACard
from schemas import EncodeRequested, Event
from services.adapter_manager.service import AdapterManagerService
from services.encoder.service import EncoderService
from services.errors import EncodeFailedError
from services.router.service import RouterService
from services.runtime.client import Encoded, FleetClient
from services.runtime.settings import Settings
from tests.services.encoder.processes import Processes, engine, skill, until


class Fleet(Processes):
    """The whole of it."""

    manager: AdapterManagerService
    router: RouterService
    encoders: list[EncoderService]

    async def up(self, *, workers: int = 2, settings: Settings | None = None) -> "Fleet":
        self.manager = await self.start(AdapterManagerService, settings=settings)
        self.router = await self.start(RouterService, settings=settings)
        self.encoders = [
            await self.start(EncoderService, str(number + 1), settings=settings)
            for number in range(workers)
        ]
        await until(lambda: len(self.router.dispatcher.workers) == workers, "the workers")
        return self

    async def teach(self, *cards: LoRACard) -> list[LoRACard]:
        """Publish cards and wait until the router knows them."""
        stored = [self.store.put(card) for card in cards]
        for card in stored:
            await self.publish(card, to_store=False)
        await until(
            lambda: all(card.key in self.router.skills.directory for card in stored), "the skills"
        )
        return stored


def base(*texts: str) -> np.ndarray:
    return engine(0).encode(list(texts))


def routed(name: str, about: str, **fields: Any) -> LoRACard:
    """A skill that is routed to by texts like `about`."""
    return skill(name, prototypes=base(about), threshold=0.6, description=about, **fields)


async def refused(client: FleetClient, texts: Any, **options: Any) -> EncodeFailedError:
    """The error that a request ends with."""
    try:
        await client.encode(texts, **options)
    except EncodeFailedError as error:
        return error
    except ExceptionGroup as group:
        (error,) = group.exceptions
        assert isinstance(error, EncodeFailedError)
        return error
    raise AssertionError("it was answered")


async def ask(bus: Bus, *texts: str, id: str, **fields: Any) -> Event[EncodeRequested]:
    data = EncodeRequested(texts=texts, reply_to=bus.address, **fields)
    event: Event[EncodeRequested] = Event(data=data, source=bus.source, id=id)
    await bus.publish(event)
    return event


def reasons(answer: Encoded) -> list[str | None]:
    return [row.reason for row in answer.rows]
