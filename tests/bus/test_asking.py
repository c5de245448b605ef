"""A request asks until it is answered, whatever its link does, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import bus
import schemas
from bus.client.client import FULL_PAUSES, ClientBus
from bus.link import Link
from bus.protocol import Unheard
from schemas import Event, SkillListed
from tests.bus.kit import question


class Line(Link):
    """Takes what it is told to take, and answers when it is told to."""

    def __init__(self) -> None:
        self.url = "line://"
        self.on_send: Callable[[int], bool] = lambda _: True
        """Called with how often it was asked; whether it sends."""
        self.asked = 0

    def send(self, message: Sequence[bytes]) -> bool:
        self.asked += 1
        self.last = schemas.from_frames(message)
        return self.on_send(self.asked)

    def answer(self) -> None:
        reply_to = self.last.data.reply_to
        reply = self.last.derive(SkillListed(cards=()), source="/server/1", to=reply_to)
        self.on_message(schemas.frames(reply))

    async def call(
        self, verb: str, body: bytes, patience: float, request: bytes | None = None
    ) -> bytes:
        raise bus.Unreachable("there is no journal")

    def subscribe(self, topic: str) -> None:
        pass

    def unsubscribe(self, topic: str) -> None:
        pass

    async def confirm(self, patience: float) -> Unheard | None:
        return None

    async def aclose(self) -> None:
        pass


@pytest.fixture
async def line() -> Line:
    return Line()


@pytest.fixture
async def one(line: Line) -> ClientBus:
    return ClientBus(line, source="/client/1")


def ask(one: ClientBus, **given: Any) -> asyncio.Task[Event[Any]]:
    event = given.pop("event", None) or question(one.address)
    return asyncio.create_task(one.request(event, SkillListed, **{"timeout": 20, **given}))


async def test_an_answer_that_comes_at_once_is_enough(line: Line, one: ClientBus) -> None:
    def at_once(_: int) -> bool:
        line.answer()
        return True

    line.on_send = at_once
    assert isinstance((await ask(one)).data, SkillListed)
    assert (line.asked, one.statistics().published) == (1, 1)


async def test_it_is_asked_again_until_the_answer_is_there(line: Line, one: ClientBus) -> None:
    def third(count: int) -> bool:
        if count == 3:
            asyncio.get_running_loop().call_soon(line.answer)
        return True

    line.on_send = third
    await ask(one, resend=0.001)
    assert (line.asked, one.statistics().published) == (3, 3)


async def test_a_full_queue_is_asked_again_soon(line: Line, one: ClientBus) -> None:
    def second(count: int) -> bool:
        if count == 2:
            asyncio.get_running_loop().call_soon(line.answer)
        return count == 2

    line.on_send = second
    await ask(one, resend=20)
    assert (line.asked, one.statistics().published, one.statistics().dropped) == (2, 1, 0)


async def test_what_never_fits_is_dropped_and_asked_again_later(line: Line, one: ClientBus) -> None:
    def later(count: int) -> bool:
        if count > len(FULL_PAUSES):
            asyncio.get_running_loop().call_soon(line.answer)
            return True
        return False

    line.on_send = later
    await ask(one, resend=0.001)
    assert (one.statistics().published, one.statistics().dropped) == (1, 1)


async def test_a_link_that_nobody_hears_is_not_asked_in_vain(line: Line, one: ClientBus) -> None:
    line.live, line.on_send = False, lambda _: False
    with pytest.raises(bus.RequestTimeout):
        await ask(one, timeout=0.2, resend=5)
    assert (line.asked, one.statistics().dropped) == (1, 1)


async def test_what_was_not_sent_when_time_is_up_is_dropped(line: Line, one: ClientBus) -> None:
    line.on_send = lambda _: False
    with pytest.raises(bus.RequestTimeout):
        await ask(one, timeout=0.2)
    assert (one.statistics().published, one.statistics().dropped) == (0, 1)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_without_time_nothing_is_asked(line: Line, one: ClientBus, timeout: float) -> None:
    with pytest.raises(bus.RequestTimeout, match="nobody answered"):
        await ask(one, timeout=timeout)
    assert not line.asked


async def test_a_closed_bus_ends_every_request(line: Line, one: ClientBus) -> None:
    asked = ask(one)
    while not line.asked:
        await asyncio.sleep(0)
    await one.aclose()
    with pytest.raises(bus.Closed):
        await asked
    with pytest.raises(bus.Closed):
        await ask(one)


async def test_what_a_link_raises_when_asked_again_is_raised(line: Line, one: ClientBus) -> None:
    def lost(count: int) -> bool:
        if count == 2:
            raise bus.Closed("the bus is closed")
        return True

    line.on_send = lost
    with pytest.raises(bus.Closed):
        await ask(one, resend=0.001)


async def test_a_cancelled_request_can_be_made_anew(line: Line, one: ClientBus) -> None:
    event = question(one.address)
    asked = ask(one, event=event)
    while not line.asked:
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="under way"):
        await ask(one, event=event)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    line.answer()  # to nobody
    again = ask(one, event=event)
    while line.asked < 2:
        await asyncio.sleep(0)
    line.answer()
    assert (await again).causation_id == event.id
    assert line.asked == 2
