"""What a watcher's connection lost comes from the journal: each number once, and in order."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from uuid import uuid4

import pytest

import bus
import schemas
from bus.client import ClientBus
from schemas import DomainForget, Event, FeedbackGiven, LearningBatchRejected
from tests.bus.kit import feedback, rejected

KINDS = [FeedbackGiven, LearningBatchRejected, DomainForget]


class Lossy:
    """A watcher's connection that loses the broadcasts of the ids it is told."""

    def __init__(self, one: ClientBus) -> None:
        self.lost: set[str] = set()
        self._handle = one.link.on_message
        one.link.on_message = self._pass

    def _pass(self, message: Sequence[bytes]) -> None:
        event = schemas.from_frames(message) if message[1] else None
        if event is None or event.id not in self.lost:
            self._handle(message)


async def opened(source: str, url: str) -> ClientBus:
    one = await bus.connect(url, source=source)
    assert isinstance(one, ClientBus)
    return one


async def test_a_loss_of_one_type_is_not_covered_by_anothers_repair() -> None:
    url = f"memory://{uuid4()}"
    async with await opened("/writer/1", url) as writer, await opened("/reader/1", url) as reader:
        lossy = Lossy(reader)
        async with reader.watch(KINDS[:2]) as events:
            lossy.lost = {"r1", "f2"}
            for event in (rejected(1), feedback(1), feedback(2), feedback(3)):
                await writer.publish(event)
            assert [(await events.get(5)).id for _ in range(4)] == ["r1", "f1", "f2", "f3"]


@pytest.mark.parametrize("count", [1, 2, 3], ids=["one type", "two types", "three types"])
@pytest.mark.parametrize("after", [None, 0], ids=["from now", "from the start"])
async def test_whatever_is_lost(count: int, after: int | None) -> None:
    url = f"memory://{uuid4()}"
    chance = Random(f"{count} {after}")
    async with await opened("/writer/1", url) as writer, await opened("/reader/1", url) as reader:
        lossy = Lossy(reader)
        async with reader.watch(KINDS[:count], after=after, buffer=20) as events:
            watched: list[str] = []
            last = ""
            for n in range(400):
                event = chance.choice([feedback(n), rejected(n), forget(n)])
                if event.type in [kind.type for kind in KINDS[:count]]:
                    if chance.random() < 0.3:
                        lossy.lost.add(event.id)
                    last = event.id
                    lossy.lost.discard(last if n > 390 else "")
                    watched.append(event.id)
                await writer.publish(event)
                if chance.random() < 0.1:
                    lossy.lost.clear()
            seen = [(await events.get(10)).id]
            while seen[-1] != last:
                seen.append((await events.get(10)).id)
            assert seen == watched


def forget(n: int) -> Event[DomainForget]:
    return Event(data=DomainForget(domain="d"), source="/test/1", id=f"d{n}")
