"""The monitor on a bus: what it says of feedback, and that a kill changes nothing."""

import asyncio
import base64
import time
from pathlib import Path

import pytest

from bus import Unreachable
from schemas import (
    BaseModelRef,
    Event,
    FeedbackGiven,
    FeedbackJudged,
    GenerationObserved,
    LearningBatchQueued,
    LearningEvent,
    SkillCard,
    SkillInstalled,
)
from services.dissonance_monitor.service import DissonanceMonitor
from services.runtime.settings import MonitorSettings, Settings
from tests.services.factory.fakes import described, stage, until, vector

NAME = "dissonance_monitor"
SERVED = "sha256:" + "5" * 64


def wrong(number: int, domain: str | None = "birds", **more: object) -> Event[FeedbackGiven]:
    """Feedback on a query whose irrelevant passage shares its words, the relevant one none."""
    data = FeedbackGiven(
        query=f"where does bird {number} nest",
        relevant=(f"reeds by lake {number % 7}",),
        irrelevant=(f"where does bird {number} not nest",),
        domain=domain,
        served=(),
    )
    return Event(data=data, source="/client/1", id=f"w{number}")


def right(number: int, **more: object) -> Event[FeedbackGiven]:
    data = FeedbackGiven(
        query=f"song of thrush {number}",
        relevant=(f"the song of thrush {number}",),
        irrelevant=("something else entirely",),
        domain="birds",
        served=(),
    )
    return Event(data=data, source="/client/1", id=f"r{number}")


def card(text: str, threshold: float | None = 0.5) -> SkillCard:
    return SkillCard(
        name="birds",
        version=1,
        digest=SERVED,
        bytes=1,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="fake", sha256="0" * 64),
        applies_to=("query",),
        description="",
        prototypes=base64.b64encode(vector(text).tobytes()).decode(),
        threshold=threshold,
        metrics={},
        created="2024-05-01T00:00:00Z",
        parents=(),
    )


async def test_every_piece_is_judged_and_clashes_are_told_apart(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(wrong(1), right(2))
        judged = {data.feedback_id: data for data in await on.until(2, FeedbackJudged)}
        (clash,) = await on.until(1, LearningEvent)

    assert judged["w1"].margin < 0
    assert judged["w1"].rouge_score < 0.5
    assert judged["r2"].margin > 0
    assert judged["r2"].rouge_score == 1.0
    assert judged["w1"].served == ()
    assert judged["w1"].entropy_delta == 0.0
    assert (clash.feedback_id, clash.reason, clash.domain) == ("w1", "contradiction", "birds")
    assert clash.positives == judged["w1"].relevant
    assert clash.skill is None


async def test_sixteen_clashes_make_a_batch(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME) as monitor:
        await on.bus.publish(*(wrong(number) for number in range(16)))
        (batch,) = await on.until(1, LearningBatchQueued)
        await until(lambda: monitor.counters["batches"] == 1)

    assert {event.feedback_id for event in batch.events} == {f"w{number}" for number in range(16)}


async def test_a_younger_batch_is_queued_when_its_time_comes(tmp_path: Path) -> None:
    settings = Settings(monitor=MonitorSettings(batch_max_age=0.3))
    async with stage(tmp_path, settings) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(*(wrong(number) for number in range(3)))
        await on.until(3, LearningEvent)
        await on.bus.publish(*(wrong(number) for number in range(3, 5)))
        (batch,) = await on.until(1, LearningBatchQueued)

    assert len(batch.events) in (4, 5)


async def test_an_old_batch_is_queued_by_the_process_that_comes_after(tmp_path: Path) -> None:
    settings = Settings(monitor=MonitorSettings(batch_max_age=0.5))
    async with stage(tmp_path, settings) as on:
        async with on.service(DissonanceMonitor, NAME):
            await on.bus.publish(*(wrong(number) for number in range(4)))
            await on.until(4, LearningEvent)
        async with on.service(DissonanceMonitor, NAME):
            (batch,) = await on.until(1, LearningBatchQueued)

    assert len(batch.events) == 4


async def test_a_domain_not_given_is_that_of_the_nearest_skill_or_general(tmp_path: Path) -> None:
    near = Event(
        data=FeedbackGiven(query="bird nest", relevant=("reeds",), served=()), source="/client/1"
    )
    far = Event(
        data=FeedbackGiven(query="tax return", relevant=("form",), served=()), source="/client/1"
    )
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(Event(data=SkillInstalled(card=card("bird nest")), source="/m/1"))
        await on.bus.publish(near, far)
        judged = {data.query: data for data in await on.until(2, FeedbackJudged)}
        clashes = {data.prompt: data for data in await on.until(1, LearningEvent)}

    assert judged["bird nest"].domain == "birds"
    assert judged["tax return"].domain == "general"
    assert clashes["tax return"].reason == "novel"


@pytest.mark.parametrize("served", [(SERVED,), None])
async def test_what_was_served_is_judged_as_it_was_served(
    tmp_path: Path, served: tuple[str, ...] | None
) -> None:
    query, answer, other = "herons breed", "herons breed in reeds", "herons breed on cliffs"
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        on.fleet.cards[SERVED] = lambda text, base: vector(answer)
        on.fleet.routed = lambda text: SERVED
        data = FeedbackGiven(
            query=query, relevant=(answer,), irrelevant=(other,), domain="birds", served=served
        )
        await on.bus.publish(Event(data=data, source="/client/1"))
        (judged,) = await on.until(1, FeedbackJudged)
        (clash,) = await on.until(1, LearningEvent)

    assert judged.served == (SERVED,)
    assert judged.margin > 0
    assert judged.entropy_delta < -0.1
    assert clash.reason == "breakthrough"
    assert clash.is_breakthrough
    assert clash.skill == "birds"


async def test_a_card_that_is_gone_is_answered_by_the_present_routing(tmp_path: Path) -> None:
    event = Event(
        data=FeedbackGiven(query="q", relevant=("p",), domain="birds", served=(SERVED,)),
        source="/client/1",
    )
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(event)
        (judged,) = await on.until(1, FeedbackJudged)

    assert judged.served == ()
    assert [request.route for request in on.fleet.asked if request.role == "query"] == [
        "named",
        "auto",
    ]


async def test_a_generation_is_judged_by_what_its_watcher_measured(tmp_path: Path) -> None:
    data = GenerationObserved(
        prompt="what sings",
        output="the thrush sings",
        reference="the thrush sings",
        entropy_before=0.6,
        entropy_after=0.2,
        domain="birds",
    )
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(Event(data=data, source="/client/1"))
        (judged,) = await on.until(1, FeedbackJudged)
        (clash,) = await on.until(1, LearningEvent)

    assert judged.rouge_score == 1.0
    assert judged.entropy_delta == pytest.approx(-0.4)
    assert clash.reason == "breakthrough"
    assert clash.positives == (data.reference,)


async def test_remembered_passages_stand_beside_those_given(tmp_path: Path) -> None:
    """One wrong passage that an earlier query brought is ranked before the right one."""
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(wrong(1))
        await on.until(1, FeedbackJudged)
        data = FeedbackGiven(
            query="where does bird 1 not nest today",
            relevant=("gardens",),
            domain="birds",
            served=(),
        )
        await on.bus.publish(Event(data=data, source="/client/1", id="second"))
        await on.until(2, FeedbackJudged)
        clashes = {data.feedback_id: data for data in await on.until(2, LearningEvent)}

    assert clashes["second"].reason == "contradiction"
    assert clashes["second"].margin is None


async def test_passages_are_embedded_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        for round_ in range(2):
            async with on.service(DissonanceMonitor, NAME):
                await on.bus.publish(wrong(7 * round_))
                await on.until(round_ + 1, FeedbackJudged)
                await on.bus.publish(wrong(7 * round_ + 70))
                await on.until(2 * (round_ + 1), FeedbackJudged) if round_ == 0 else None

    assert on.fleet.texts.count("reeds by lake 0") <= 2


async def test_while_the_fleet_cannot_embed_feedback_waits_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.handful.PATIENCE", 0.05)
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        on.fleet.failing = "internal"
        await on.bus.publish(wrong(1))
        await until(lambda: len(on.fleet.asked) > 8)
        assert await on.said(FeedbackJudged) == []
        on.fleet.failing = None
        await on.until(1, FeedbackJudged)
        assert await on.bus.dead_letters() == ()


async def test_one_piece_that_cannot_be_judged_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.handful._RETRY_DELAYS", (0.0,))
    huge = Event(
        data=FeedbackGiven(query="q", relevant=("x" * 1_020_000,), domain="birds", served=()),
        source="/client/1",
        id="huge",
    )
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(wrong(1), huge, wrong(2))
        judged = await on.until(2, FeedbackJudged)
        await until(lambda: on.bus.dead_letters())
        (dead,) = await on.bus.dead_letters()

    assert {data.feedback_id for data in judged} == {"w1", "w2"}
    assert dead.event is not None
    assert dead.event.id == "huge"
    assert "1000000 allowed" in dead.reason


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_killed_around_the_acknowledgement_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Given a process that dies right before, or right after, its ack reached the broker."""
    monkeypatch.setattr("services.runtime.handful.VISIBILITY", 0.5)
    async with stage(tmp_path) as on:
        async with on.service(DissonanceMonitor, NAME) as monitor:
            died = asyncio.Event()
            real = monitor.bus.ack

            async def ack(deliveries: object, *, publish: object = ()) -> None:
                if moment == "after":
                    await real(deliveries, publish=publish)
                died.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(monitor.bus, "ack", ack)
            await on.bus.publish(*(wrong(number) for number in range(20)))
            await died.wait()
        async with on.service(DissonanceMonitor, NAME):
            await on.until(20, FeedbackJudged)
            await on.until(20, LearningEvent)
            (batch,) = await on.until(1, LearningBatchQueued)
            await asyncio.sleep(0.7)  # longer than a lease: whatever would come twice has come
        judged = [event.data.feedback_id for event in await on.said(FeedbackJudged)]
        assert sorted(judged) == sorted(f"w{number}" for number in range(20))
        assert len(await on.said(LearningEvent)) == 20
        assert len(await on.said(LearningBatchQueued)) == 1
    assert len({event.feedback_id for event in batch.events}) == 16


async def test_batches_are_said_when_the_broker_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.dissonance_monitor.service.PATIENCE", 0.05)
    settings = Settings(monitor=MonitorSettings(batch_max_age=0.2))
    async with stage(tmp_path, settings) as on, on.service(DissonanceMonitor, NAME) as monitor:
        real, refused = monitor.bus.publish, []

        async def publish(*events: Event[object]) -> tuple[int | None, ...]:
            if events[0].type == LearningBatchQueued.type and len(refused) < 3:
                refused.append(events)
                raise Unreachable("the broker is away")
            return await real(*events)

        monkeypatch.setattr(monitor.bus, "publish", publish)
        await on.bus.publish(*(wrong(number) for number in range(4)))
        await on.until(1, LearningBatchQueued)

    assert len(refused) == 3


async def test_a_thousand_pieces_are_judged_in_seconds(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        start = time.monotonic()
        events = [wrong(number) for number in range(1024)]
        for at in range(0, 1024, 128):
            await on.bus.publish(*events[at : at + 128])
        await on.until(64, LearningBatchQueued, within=40)
        took = time.monotonic() - start

    assert took < 15, f"{took:.1f} s"


async def test_a_list_of_skills_in_several_parts_is_known_whole(tmp_path: Path) -> None:
    """Given a monitor that starts when two skills are installed, each told in a part of its own."""
    async with stage(tmp_path) as on:
        values = {name: getattr(card("owls hunt"), name) for name in SkillCard.__struct_fields__}
        other = values | {"name": "owls", "digest": "sha256:" + "6" * 64}
        on.fleet.listed = [described(card("bird songs")), described(SkillCard(**other))]
        async with on.service(DissonanceMonitor, NAME) as monitor:

            async def domain(text: str) -> str | None:
                (found,) = await monitor._skills.nearest(vector(text)[None])
                return found.domain

            async def known() -> bool:
                return await domain("owls hunt") == "owls"

            await until(known)
            assert await domain("bird songs") == "birds"


async def test_the_heartbeat_tells_of_each_domain_across_restarts(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        async with on.service(DissonanceMonitor, NAME) as monitor:
            await on.bus.publish(*(wrong(number) for number in range(16)), right(1))
            await until(lambda: monitor.counters.get("judged:birds") == 17)
            assert monitor.counters["clashes:birds"] == 16
            assert monitor.counters["open:birds"] == 0  # they became a batch
        async with on.service(DissonanceMonitor, NAME) as monitor:
            assert monitor.counters["judged:birds"] == 17
            await on.bus.publish(wrong(16), wrong(17, domain="fish"))
            await until(lambda: monitor.counters.get("judged:fish") == 1)
            await until(lambda: monitor.counters["judged:birds"] == 18)
            told = monitor.counters
            assert (told["open:birds"], told["open:fish"], told["waiting"]) == (1, 1, 2)
            assert time.time() - 60 < told["last:birds"] <= time.time()
            assert told["batch_size"] == 16


async def test_the_heartbeat_tells_of_a_bounded_number_of_domains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.dissonance_monitor.service.DOMAINS", 2)
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME) as monitor:
        for number in range(4):
            await on.bus.publish(wrong(number, domain=f"kind-{number}"))
            await until(lambda n=number: monitor.counters.get(f"judged:kind-{n}") == 1)
        named = {key for key in monitor.counters if key.startswith("open:")}
    assert named == {"open:kind-2", "open:kind-3"}
