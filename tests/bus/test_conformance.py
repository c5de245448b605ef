"""What every transport promises, proved on each: in memory, over ipc, over tcp with CURVE."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

import bus
from schemas import (
    EncodeFailed,
    EncodeRequested,
    Event,
    EventRefused,
    FeedbackGiven,
    LearningBatchRejected,
    SkillListed,
    SkillListRequested,
    SkillPublished,
    TrainingProgressed,
)
from tests.bus.conftest import Connect
from tests.bus.kit import eventually, feedback, progress, question, rejected


async def test_live_event_reaches_everybody_who_entered(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/b/1")
    async with one.watch(TrainingProgressed) as first, two.watch(TrainingProgressed) as second:
        assert await one.publish(progress(1)) == (None,)
        assert (await first.get(5)).data.step == 1
        assert (await second.get(5)).data.step == 1


async def test_the_very_first_live_event_is_not_lost(connect: Connect) -> None:
    listener = await connect("/a/1")
    async with listener.watch(TrainingProgressed) as events:
        for n in range(5):
            newcomer = await connect(f"/new/{n}")
            await newcomer.publish(progress(n))
            assert (await events.get(5)).data.step == n


async def test_live_order_per_publisher_holds(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/b/1")
    async with two.watch(TrainingProgressed) as events:
        for n in range(2000):
            await one.publish(progress(n))
        assert [(await events.get(5)).data.step for _ in range(2000)] == list(range(2000))


async def test_attachments_arrive_as_they_were(connect: Connect) -> None:
    one = await connect("/a/1")
    blob = bytes(range(256)) * 4096
    asked = question(one.address)
    async with one.watch(SkillListed) as answers:
        reply = asked.derive(
            SkillListed(cards=()), source="/b/1", to=one.address, attachments=[blob, b""]
        )
        await one.publish(reply)
        assert (await answers.get(5)).attachments == (blob, b"")


async def test_addressed_events_reach_their_recipient_only(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/a/12")  # one's topic is a prefix of two's
    asked = question("a-1")
    async with one.watch(SkillListed) as first, two.watch(SkillListed) as second:
        await one.publish(asked.derive(SkillListed(cards=()), source="/a/1", to="a-12"))
        assert (await second.get(5)).to == "a-12"
        await one.publish(asked.derive(SkillListed(cards=()), source="/a/1", to="a-1"))
        assert (await first.get(5)).to == "a-1"  # the other came before it, if it came


async def test_durable_events_are_numbered_in_one_order(connect: Connect) -> None:
    one = await connect()
    async with one.watch([FeedbackGiven, LearningBatchRejected]) as events:
        assert await one.publish(feedback(1), rejected(1), feedback(2)) == (1, 2, 3)
        seen = [await events.get(5) for _ in range(3)]
    assert [(e.sequence, e.previous) for e in seen] == [(1, 0), (2, 0), (3, 1)]
    assert await one.heads() == {"feedback.given": 3, "learning.batch_rejected": 2}


async def test_same_source_and_id_is_kept_once(connect: Connect) -> None:
    one = await connect()
    assert await one.publish(feedback(1), feedback(2)) == (1, 2)
    assert await one.publish(feedback(2), feedback(3), feedback(1)) == (2, 3, 1)
    other = feedback(1, source="/other/1")
    assert await one.publish(other) == (4,)
    assert len((await one.read()).events) == 4


async def test_read_pages_through_the_journal(connect: Connect) -> None:
    one = await connect()
    for start in range(0, 50, 10):
        await one.publish(*(feedback(n) for n in range(start, start + 10)), rejected(start))
    page = await one.read(FeedbackGiven, after=0, limit=7)
    assert [e.id for e in page.events] == [f"f{n}" for n in range(7)]
    assert not page.truncated
    rest = await one.read(FeedbackGiven, after=page.events[-1].sequence or 0)
    assert [e.id for e in rest.events] == [f"f{n}" for n in range(7, 50)]
    assert len((await one.read()).events) == 55


async def test_watch_after_catches_up_without_gap_or_duplicate(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/b/1")
    await one.publish(*(feedback(n) for n in range(700)))
    async with two.watch(FeedbackGiven, after=100) as events:
        seen = [(await events.get(5)).sequence for _ in range(10)]
        await one.publish(*(feedback(n) for n in range(700, 900)))
        seen += [(await events.get(5)).sequence for _ in range(790)]
        assert seen == list(range(101, 901))
        await one.publish(feedback(900))
        assert (await events.get(5)).sequence == 901
        assert not events.truncated


async def test_a_small_buffer_loses_live_events_and_no_durable_ones(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/b/1")
    async with two.watch([FeedbackGiven, TrainingProgressed], buffer=5) as events:
        for n in range(60):
            await one.publish(feedback(n), progress(n))
        await eventually(lambda: two.statistics().received >= 120)
        live, durable = [], []
        while len(durable) < 60:
            event = await events.get(5)
            (durable if event.sequence else live).append(event)
        assert [e.sequence for e in durable] == list(range(1, 61))
        assert [e.data.step for e in live] == list(range(55, 60))
        assert two.statistics().dropped >= 55


async def test_a_group_shares_its_events(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/a/2")
    await one.publish(*(feedback(n) for n in range(20)))
    seen: list[str] = []

    async def work(member: bus.Bus) -> None:
        async with member.consume("g", FeedbackGiven, max_leases=3) as deliveries:
            async for delivery in deliveries:
                seen.append(delivery.event.id)
                await delivery.ack()
                if len(seen) >= 20:
                    return

    async with asyncio.timeout(20):
        await asyncio.wait(
            [asyncio.create_task(work(one)), asyncio.create_task(work(two))],
            return_when=asyncio.FIRST_COMPLETED,
        )
    assert sorted(seen) == sorted(f"f{n}" for n in range(20))
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        if "work" in repr(task):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_waiting_consumer_gets_what_is_published(connect: Connect) -> None:
    one = await connect()
    async with one.consume("g", FeedbackGiven) as work:
        waiting = asyncio.create_task(work.get(10))
        await asyncio.sleep(0.05)
        await one.publish(feedback(1))
        assert (await waiting).event.sequence == 1


async def test_start_latest_begins_at_the_head(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    async with one.consume("new", FeedbackGiven, start="latest") as work:
        await one.publish(feedback(2))
        assert (await work.get(5)).event.id == "f2"


async def test_ack_and_publish_are_one(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    async with one.consume("g", FeedbackGiven) as work:
        delivery = await work.get(5)
        derived = delivery.event.derive(
            LearningBatchRejected(batch_id="b", reason="r"), source="/test/1"
        )
        await delivery.ack(publish=[derived])
        with pytest.raises(bus.StaleLease):
            await delivery.ack(publish=[rejected("again")])
    (kept,) = (await one.read(LearningBatchRejected)).events
    assert (kept.id, kept.causation_id) == (derived.id, "f1")


async def test_an_expired_lease_changes_nothing(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    async with one.consume("g", FeedbackGiven, visibility=0.1) as work:
        first = await work.get(5)
        second = await work.get(5)  # comes when the first lease has run out
        assert (first.event.id, second.event.id) == ("f1", "f1")
        assert second.attempt > first.attempt
        with pytest.raises(bus.StaleLease):
            await first.ack(publish=[rejected(1)])
        assert not (await one.read(LearningBatchRejected)).events


async def test_extend_keeps_a_lease(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    async with one.consume("g", FeedbackGiven, visibility=0.3) as work:
        delivery = await work.get(5)
        await delivery.extend(30)
        with pytest.raises(TimeoutError):
            await work.get(0.6)
        await delivery.ack()


async def test_nack_delays_and_the_fifth_buries(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    loop = asyncio.get_running_loop()
    async with one.consume("g", FeedbackGiven) as work:
        for attempt in range(1, 6):
            delivery = await work.get(5)
            assert delivery.attempt == attempt
            nacked = loop.time()
            await delivery.nack(delay=0.15 if attempt == 1 else 0, reason=f"no {attempt}")
            if attempt == 1:
                again = await work.get(5)
                assert loop.time() - nacked >= 0.14
                assert again.attempt == 2
                await again.defer(datetime.now(UTC))
        with pytest.raises(TimeoutError):
            await work.get(0.05)
        (letter,) = await one.dead_letters()
        assert (letter.group, letter.reason) == ("g", "no 5")
        assert letter.event is not None
        assert letter.event.id == "f1"
        await one.dead_letters("retry", group="g")
        again = await work.get(5)
        assert again.attempt == 1
        await again.ack()
    assert await one.dead_letters() == ()


async def test_dead_letters_can_be_dropped(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1), feedback(2))
    async with one.consume("g", FeedbackGiven) as work:
        for _ in range(10):
            await (await work.get(5)).nack()
    letters = await one.dead_letters(group="g")
    assert len(letters) == 2
    await one.dead_letters("drop", ids=[letters[0].id])
    assert [letter.id for letter in await one.dead_letters()] == [letters[1].id]


async def test_defer_never_counts(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    async with one.consume("g", FeedbackGiven) as work:
        for _ in range(8):
            delivery = await work.get(5)
            assert delivery.attempt == 1
            await delivery.defer(datetime.now(UTC) + timedelta(milliseconds=5))
    assert await one.dead_letters() == ()


async def test_leaving_hands_back_uncounted(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    for _ in range(8):
        async with one.consume("g", FeedbackGiven, visibility=60) as work:
            assert (await work.get(5)).attempt == 1


async def test_leases_that_run_out_end_in_the_dead_letters(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1))
    letters: tuple[bus.DeadLetter, ...] = ()
    attempts = []
    async with one.consume("g", FeedbackGiven, visibility=0.1) as work:
        while not letters:  # on a busy machine a lease may run out on its way here
            try:
                attempts.append((await work.get(0.5)).attempt)
            except TimeoutError:
                letters = await one.dead_letters()
    assert attempts == sorted(set(attempts))
    assert attempts[-1] <= 7
    assert "ran out 7 times" in letters[0].reason


async def test_what_one_hands_back_wakes_another(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/a/2")
    await one.publish(feedback(1))
    async with two.consume("g", FeedbackGiven) as waiting:
        async with one.consume("g", FeedbackGiven, visibility=60) as work:
            await work.get(5)
            later = asyncio.create_task(waiting.get(5))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(later), 0.1)
        assert (await later).event.id == "f1"


async def test_what_comes_after_giving_up_is_for_the_others(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/a/2")
    async with one.consume("g", FeedbackGiven, visibility=60) as gave_up:
        with pytest.raises(TimeoutError):
            await gave_up.get(0.05)
        await one.publish(feedback(1))
        async with two.consume("g", FeedbackGiven, visibility=60) as work:
            delivery = await work.get(10)
            assert (delivery.event.id, delivery.attempt) == ("f1", 1)
            await delivery.ack()


async def test_what_waits_behind_slow_work_goes_back_uncounted(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/a/2")
    await one.publish(feedback(1), feedback(2))
    async with one.consume("g", FeedbackGiven, max_leases=2, visibility=4) as slow:
        assert (await slow.get(5)).event.id == "f1"
        async with two.consume("g", FeedbackGiven) as work:
            delivery = await work.get(10)
            assert (delivery.event.id, delivery.attempt) == ("f2", 1)


async def test_several_leases_end_together(connect: Connect) -> None:
    one = await connect()
    await one.publish(feedback(1), feedback(2))
    async with one.consume("g", FeedbackGiven, max_leases=2) as work:
        held = [await work.get(5), await work.get(5)]
        await one.ack(held, publish=[rejected(1)])
    await one.publish(feedback(3))
    async with one.consume("g", FeedbackGiven) as work:
        assert (await work.get(5)).event.id == "f3"  # what is not acknowledged comes before it
    assert [each.id for each in (await one.read(LearningBatchRejected)).events] == ["r1"]


async def test_live_events_cannot_be_consumed(connect: Connect) -> None:
    one = await connect()
    with pytest.raises(ValueError, match=r"training\.progressed"):
        one.consume("g", TrainingProgressed)


async def test_request_finds_its_answer(connect: Connect) -> None:
    client, server = await connect("/client/1"), await connect("/server/1")

    async def serve() -> None:
        async with server.watch(SkillListRequested) as asked:
            first = await asked.get(5)
            second = await asked.get(5)  # the same again: the first answer was "lost"
            assert first.id == second.id
            reply = second.derive(
                SkillListed(cards=()), source="/server/1", to=second.data.reply_to
            )
            await server.publish(reply)

    serving = asyncio.create_task(serve())
    await asyncio.sleep(0.05)
    answer = await client.request(
        question(client.address), [SkillListed, EncodeFailed], timeout=5, resend=0.1
    )
    assert isinstance(answer.data, SkillListed)
    await serving


async def test_request_without_an_answer_times_out(connect: Connect) -> None:
    one = await connect()
    with pytest.raises(bus.RequestTimeout, match="nobody answered"):
        await one.request(question(one.address), SkillListed, timeout=0.2)
    with pytest.raises(ValueError, match="reply_to"):
        await one.request(question("somebody-else"), SkillListed, timeout=0.2)


async def test_what_breaks_its_schema_is_refused(connect: Connect) -> None:
    one = await connect()
    bad = feedback(1)
    broken = type(bad)(data=FeedbackGiven(query=3, relevant=()), source="/test/1")  # type: ignore[arg-type]
    with pytest.raises(bus.Refused, match="query") as refused:
        await one.publish(broken, feedback(2))
    assert refused.value.code == "malformed"
    big = type(bad)(data=FeedbackGiven(query="x" * 2**20, relevant=()), source="/test/1")
    with pytest.raises(bus.TooLarge):
        await one.publish(feedback(2), big)
    assert not (await one.read()).events  # all or none


async def test_a_refused_live_event_fails_its_request(connect: Connect) -> None:
    one = await connect()
    asked = EncodeRequested(texts=("x" * 2**20,), reply_to=one.address)
    bad = Event(data=asked, source="/test/1")
    async with one.watch(EventRefused, to="/test/1") as refusals:
        with pytest.raises(bus.Refused):
            await one.request(bad, SkillListed, timeout=5)
        assert (await refusals.get(5)).data.code == "too_large"


async def test_erase_removes_what_it_names(connect: Connect) -> None:
    one = await connect()
    await one.publish(*(feedback(n, domain="law" if n % 2 else "art") for n in range(10)))
    upto = (await one.read(FeedbackGiven)).events[1].sequence
    assert await one.erase(FeedbackGiven, {"domain": "law"}, upto=upto) == 1
    assert await one.erase([FeedbackGiven, SkillPublished], {"domain": "law"}) == 4
    left = (await one.read()).events
    assert {e.data.domain for e in left} == {"art"}
    assert await one.publish(feedback(1, domain="law")) == (2,)  # a late resend stays away
    assert len((await one.read()).events) == 5
    with pytest.raises(bus.Refused):
        await one.erase(FeedbackGiven, {"x') OR 1=1 --": "y"})


async def test_closing_waits_for_what_is_being_published(connect: Connect) -> None:
    one, two = await connect("/a/1"), await connect("/a/2")
    publishing = asyncio.create_task(one.publish(feedback(1)))
    await asyncio.sleep(0)
    await one.aclose()
    assert await publishing == (1,)
    assert len((await two.read()).events) == 1


async def test_a_closed_bus_says_so(connect: Connect) -> None:
    one = await connect()
    async with one.watch(TrainingProgressed) as events:
        waiting = asyncio.create_task(events.get())
        await asyncio.sleep(0)
        await one.aclose()
        with pytest.raises(bus.Closed):
            await waiting
    with pytest.raises(bus.Closed):
        await one.publish(progress(1))
    with pytest.raises(bus.Closed):
        await one.heads()
    await one.aclose()


async def test_statistics_count(connect: Connect) -> None:
    one = await connect()
    async with one.watch(TrainingProgressed) as events:
        await one.publish(progress(1), feedback(1))
        await events.get(5)
    found = one.statistics()
    assert (found.published, found.received, found.dropped, found.refused) == (2, 1, 0, 0)


async def test_a_lease_shorter_than_the_wait_for_it_reaches_its_consumer(connect: Connect) -> None:
    one = await connect("/a/1")
    async with one.consume("g", FeedbackGiven, visibility=0.4) as work:
        waiting = asyncio.create_task(work.get(10))
        await asyncio.sleep(0.5)
        await one.publish(feedback(1))
        assert (await waiting).event.id == "f1"
