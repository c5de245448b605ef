"""Groups, as whoever looks after the journal sees them and drops them, on every transport."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

import bus
from schemas import FeedbackGiven, LearningBatchRejected
from tests.bus.conftest import Connect
from tests.bus.kit import feedback, rejected


async def test_a_group_tells_how_far_it_is(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/b/1")
    assert await two.groups() == ()
    before = datetime.now(UTC)
    await one.publish(*(feedback(n) for n in range(4)), rejected(1))
    async with one.consume("g.%x", [LearningBatchRejected, FeedbackGiven], visibility=60) as work:
        await (await work.get(5)).ack()
        await work.get(5)
        (found,) = await two.groups()
        with pytest.raises(bus.Consumed, match=r"as 'g\.%x': stop that process"):
            await two.drop_group("g.%x")
    assert found.since is not None
    assert before <= found.since <= datetime.now(UTC)
    assert found == bus.GroupState(
        name="g.%x",
        types=("feedback.given", "learning.batch_rejected"),
        behind=4,
        more=False,
        since=found.since,
        consumed=True,
        dead=0,
    )


async def test_a_group_that_was_dropped_begins_anew(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/b/1")
    await one.publish(*(feedback(n) for n in range(3)))
    async with one.consume("h", FeedbackGiven):
        pass
    async with one.consume("g", FeedbackGiven) as work:
        await (await work.get(5)).ack()
        for _ in range(5):
            await (await work.get(5)).nack()
    gone, left = await two.groups()
    assert (gone.name, gone.behind, gone.consumed, gone.dead) == ("g", 1, False, 1)
    assert (left.name, left.behind, left.consumed, left.dead) == ("h", 3, False, 0)
    assert await two.drop_group("g") == gone
    assert await two.drop_group("g") is None
    assert await two.groups() == (left,)
    assert await two.dead_letters() == ()
    async with one.consume("g", FeedbackGiven) as work:
        for n in range(3):
            delivery = await work.get(5)
            assert (delivery.event.id, delivery.attempt) == (f"f{n}", 1)
            await delivery.ack()


async def test_a_group_that_is_consumed_is_dropped_by_force_alone(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/b/1")
    async with one.consume("g", FeedbackGiven, visibility=60) as work:
        waiting = asyncio.create_task(work.get(30))
        async with asyncio.timeout(20):
            while not any(group.consumed for group in await two.groups()):
                await asyncio.sleep(0.01)
        with pytest.raises(bus.Consumed):
            await two.drop_group("g")
        await one.publish(feedback(1))
        delivery = await waiting
        dropped = await two.drop_group("g", force=True)
        assert dropped is not None
        assert (dropped.behind, dropped.consumed) == (1, True)
        with pytest.raises(bus.StaleLease):
            await delivery.ack()
        again = await work.get(5)
        assert (again.event.id, again.attempt) == ("f1", 1)
