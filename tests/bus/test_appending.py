"""Publications of one turn of the loop share a request, and each keeps its own promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import bus
from bus.client.appending import EVENTS
from schemas import Event, FeedbackGiven
from tests.bus.kit import feedback, rejected


class Counted(bus.MemoryBus):
    """Counts what it asks the journal to append."""

    def __init__(self) -> None:
        super().__init__("counted", source="/test/1")
        self.appends = 0
        self.waits: list[float] = []
        ask = self.link.call

        async def counted(verb: str, body: bytes, patience: float, *more: Any) -> bytes:
            if verb == "append":
                self.appends += 1
                self.waits.append(patience)
            return await ask(verb, body, patience, *more)

        self.link.call = counted  # type: ignore[method-assign, assignment]


@pytest.fixture
async def one() -> AsyncIterator[Counted]:
    async with Counted() as made:
        assert isinstance(made, Counted)
        yield made


def broken(name: str) -> Event[Any]:
    """A durable event that the journal refuses."""
    return Event(data=FeedbackGiven(query=3, relevant=()), source="/test/1", id=name)  # type: ignore[arg-type]


async def test_what_is_published_at_once_travels_together_and_in_order(one: Counted) -> None:
    found = await asyncio.gather(*(one.publish(feedback(n)) for n in range(50)))
    assert found == [(n + 1,) for n in range(50)]
    assert one.appends == 1


async def test_lists_and_single_events_share_a_request(one: Counted) -> None:
    found = await asyncio.gather(
        one.publish(feedback(1), rejected(1)), one.publish(feedback(2)), one.publish(feedback(1))
    )
    assert found == [(1, 2), (3,), (1,)]
    assert one.appends == 1


async def test_a_patience_that_is_changed_holds_from_then_on(one: Counted) -> None:
    for patience in (30.0, 3.0, 300.0):
        one.patience = patience
        await one.publish(feedback(patience))
        assert one.waits.pop() == pytest.approx(patience, abs=1.0)


async def test_a_bundle_has_an_end(one: Counted) -> None:
    await asyncio.gather(*(one.publish(feedback(n)) for n in range(2 * EVENTS + 1)))
    assert one.appends == 3


async def test_who_is_refused_is_refused_alone(one: Counted) -> None:
    found = await asyncio.gather(
        one.publish(feedback(1)),
        one.publish(feedback(2), broken("b1")),
        one.publish(feedback(3)),
        one.publish(broken("b2")),
        return_exceptions=True,
    )
    assert found[0] == (1,)
    assert found[2] == (2,)
    assert [type(found[n]) for n in (1, 3)] == [bus.Refused, bus.Refused]
    assert [event.id for event in (await one.read()).events] == ["f1", "f3"]  # all or none of each
    assert one.statistics().refused == 2


async def test_who_gives_up_takes_nobody_along(one: Counted) -> None:
    tasks = [asyncio.create_task(one.publish(feedback(n))) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert found[0] == (1,)
    assert isinstance(found[1], asyncio.CancelledError)
    assert found[2] == (2,)  # given up before it was sent: it never was


async def test_together_publications_are_no_larger_than_the_smallest_message(
    one: Counted,
) -> None:
    query = "q" * 300_000
    data = [FeedbackGiven(query=f"{n}{query}", relevant=("a",)) for n in range(4)]
    large: list[Event[Any]] = [Event(data=one_, source="/test/1") for one_ in data]
    found = await asyncio.gather(*(one.publish(event) for event in large))
    assert found == [(1,), (2,), (3,), (4,)]
    assert one.appends == 4


async def test_what_its_publisher_gave_up_before_it_was_sent_is_not_sent(one: Counted) -> None:
    given_up = asyncio.ensure_future(one.publish(feedback(1)))
    kept = asyncio.ensure_future(one.publish(feedback(2)))
    await asyncio.sleep(0)  # both wait for the end of the turn
    given_up.cancel()
    assert await kept == (1,)
    assert [event.id for event in (await one.read()).events] == ["f2"]
