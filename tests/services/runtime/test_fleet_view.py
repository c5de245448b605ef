"""What a view gathers from a bus: what is said, what the manager lists, what the journal holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from bus import Bus, MemoryBus, connect
from schemas import (
    FeedbackGiven,
    FleetHeartbeat,
    SkillInstalled,
    SkillListed,
    SkillListRequested,
    SkillRetired,
)
from services.runtime import fleet_view
from services.runtime.fleet_view import REMEMBERED, FleetView
from services.runtime.fleet_view_status import ModelStatus, Status
from services.runtime.fleet_view_tail import tail
from tests.bus.kit import BrokerProcess, eventually, short_folder
from tests.services.runtime.fleet_view_kit import (
    MODEL,
    Clock,
    beat,
    card,
    listed,
    progressed,
    published,
    rejected,
    requested,
    said,
)


class Fleet:
    """Whoever speaks on the bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.cards: list[Any] = []
        self.asked = 0

    async def say(self, *data: Any) -> None:
        for one in data:  # one by one: of several, the durable ones would go first
            await self.bus.publish(said(one, self.bus.source))

    async def manage(self, live: asyncio.Event) -> None:
        async with self.bus.watch(SkillListRequested) as asked:
            live.set()
            async for event in asked:
                self.asked += 1
                answer = SkillListed(cards=tuple(self.cards))
                to = event.data.reply_to
                await self.bus.publish(said(answer, to=to, correlation_id=event.id))


@asynccontextmanager
async def fleet(bus: Bus) -> AsyncIterator[Fleet]:
    playing, live = Fleet(bus), asyncio.Event()
    task = asyncio.create_task(playing.manage(live))
    await live.wait()
    try:
        yield playing
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Fleet, Bus]]:
    """A fleet, and the bus of whoever looks at it."""
    name = uuid4().hex
    async with (
        MemoryBus(name, source="/fleet/1") as behind,
        MemoryBus(name, source="/view/1") as bus,
        fleet(behind) as playing,
    ):
        yield playing, bus


def broker(**heads: int) -> FleetHeartbeat:
    named = {name.replace("_", "."): head for name, head in heads.items()}
    return beat("broker", heads=named)


async def test_what_is_said_is_shown() -> None:
    async with two() as (on, bus), FleetView(bus) as view:
        law = card("law", 2)
        await on.say(
            beat("encoder", counters={"dim": 384, "cards": 1, f"card:{law.digest[7:19]}": 9}),
            beat("dissonance_monitor", counters={"open:law": 3, "last:law": 1.0}),
            beat("router", counters={"minute_requests": 5}),
            requested("t1", "law"),
            progressed("t1"),
            rejected("t0", "law"),
            SkillInstalled(card=law),
        )
        await eventually(lambda: len(view.snapshot().skills) == 1)
        status = view.snapshot()

    assert status.model == ModelStatus(id=MODEL.id, sha256=MODEL.sha256, dim=384)
    assert [it.service for it in status.processes] == ["dissonance_monitor", "encoder", "router"]
    assert status.requests.minute.requests == 5
    (domain,) = status.loop.domains
    assert (domain.domain, domain.open, len(domain.verdicts)) == ("law", 3, 1)
    assert domain.training is not None
    (skill,) = status.skills
    assert (skill.version, skill.workers) == (2, ("encoder/1",))
    assert status.journal.sequence == status.journal.heads["skill.installed"] == 3
    assert msgspec.json.decode(msgspec.json.encode(status), type=Status) == status


async def test_an_older_heartbeat_sets_no_head_back() -> None:
    async with two() as (on, bus), FleetView(bus) as view:
        await on.say(broker(skill_installed=7), broker(skill_installed=6), beat("router"))
        await eventually(lambda: bool(view.snapshot().processes))
        assert view.snapshot().journal.heads["skill.installed"] == 7


async def test_a_view_that_begins_later_knows_the_past() -> None:
    async with two() as (on, bus):
        on.cards = [listed(card("law", 2), pinned=True), listed(card("law", 1), "kept")]
        await on.say(requested("t1", "law"), rejected("t0", "law"))
        await on.say(published("t1", card("law", 2)))
        async with FleetView(bus, model=MODEL) as view:
            await eventually(lambda: len(view.snapshot().skills) == 2)
            await on.say(progressed("t1", 7))
            await eventually(lambda: view.snapshot().loop.domains[0].training is not None)
            status = view.snapshot()

    (domain,) = status.loop.domains
    assert [(it.published, it.version) for it in domain.verdicts] == [(True, 2), (False, None)]
    assert [(it.version, it.state, it.pinned) for it in status.skills] == [
        (2, "installed", True),
        (1, "kept", False),
    ]
    assert status.model == ModelStatus(id=MODEL.id, sha256=MODEL.sha256, dim=None)
    assert status.journal.sequence == 3


async def test_nothing_of_the_past_is_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said while the journal is read comes once."""
    async with two() as (on, bus):
        await on.say(rejected("t0", "law"))
        reading = tail

        async def slowly(*given: Any, **named: Any) -> Any:
            await on.say(rejected(f"meanwhile-{given[2]}", "law"))
            return await reading(*given, **named)

        monkeypatch.setattr(fleet_view, "tail", slowly)
        async with FleetView(bus) as view:
            await on.say(rejected("t9", "law"))
            await eventually(lambda: view.snapshot().journal.sequence == 4)
            assert len(view.snapshot().loop.domains[0].verdicts) == 4


async def test_a_manager_that_is_another_process_is_asked_again() -> None:
    async with two() as (on, bus), FleetView(bus) as view:
        await eventually(lambda: on.asked == 1)
        on.cards = [listed(card("law"))]
        await on.say(beat("adapter_manager", pid=1))
        await on.say(beat("adapter_manager", pid=2))
        await eventually(lambda: len(view.snapshot().skills) == 1)
        assert on.asked == 2


async def test_a_process_that_falls_silent_is_shown_as_gone() -> None:
    clock = Clock()
    async with two() as (on, bus), FleetView(bus, clock=clock) as view:
        await on.say(beat("router"), beat("encoder", counters={"dim": 4}))
        await eventually(lambda: len(view.snapshot().processes) == 2)
        assert [it.service for it in view.beats()] == ["encoder", "router"]
        clock.now += 6.0
        assert {it.state for it in view.snapshot().processes} == {"gone"}
        assert view.beats() == []
        await on.say(beat("router"))
        await eventually(lambda: view.snapshot().processes[1].state == "ready")


async def test_it_settles_once_every_kind_of_fact_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_view, "ROUND", 0.05)
    async with two() as (on, bus), FleetView(bus) as view:
        assert not await view.settle(0.1), "no broker was heard"
        await on.say(broker(feedback_given=9))
        assert await view.settle(10.0)
        assert view.snapshot().journal.sequence == 9


async def test_it_does_not_settle_without_the_managers_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_view, "ROUND", 0.0)
    name = uuid4().hex
    async with (
        MemoryBus(name, source="/fleet/1") as behind,
        MemoryBus(name, source="/view/1") as bus,
        FleetView(bus) as view,
    ):
        await behind.publish(said(broker()))
        assert not await view.settle(0.2)


async def test_an_event_that_cannot_be_shown_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with two() as (on, bus), FleetView(bus) as view:
        hear = view._skills.hear

        def broken(event: Any) -> None:
            if isinstance(event.data, SkillRetired):
                raise RuntimeError("of a test")
            hear(event)

        monkeypatch.setattr(view._skills, "hear", broken)
        law = card("law")
        await on.say(SkillRetired(name="law", version=1, digest=law.digest, reason=""))
        await on.say(SkillInstalled(card=law))
        await eventually(lambda: len(view.snapshot().skills) == 1)
    assert "not shown" in caplog.text


async def test_the_last_events_are_found_however_long_the_journal_is() -> None:
    async with MemoryBus(uuid4().hex, source="/test/1") as bus:
        for part in range(12):
            await bus.publish(said(rejected(f"t{part}", "law")))
            await bus.publish(
                *(said(FeedbackGiven(query=f"{part} {n}", relevant=("a",))) for n in range(250))
            )
        head = max((await bus.heads()).values())
        kind = (type(rejected("", "law")),)
        for most, expected in ((5, range(7, 12)), (REMEMBERED, range(12))):
            found = await tail(bus, kind, most, head=head)
            assert [event.data.task_id for event in found] == [f"t{n}" for n in expected]
        early = await tail(bus, kind, 2, head=252)
        assert [event.data.task_id for event in early] == ["t0", "t1"]
        assert await tail(bus, kind, 2, head=0) == ()


async def test_the_view_survives_a_broker_that_starts_anew() -> None:
    with short_folder() as folder:
        process = BrokerProcess(folder)
        process.start()
        try:
            async with (
                await connect(process.url, source="/fleet/1") as behind,
                await connect(process.url, source="/view/1") as bus,
                fleet(behind) as on,
                FleetView(bus) as view,
            ):
                assert await view.settle(20.0)
                await on.say(rejected("t1", "law"))
                await eventually(lambda: len(view.snapshot().loop.domains) == 1)
                await asyncio.to_thread(process.stop, kill=True)
                await asyncio.to_thread(process.start)
                await on.say(rejected("t2", "law"))
                await eventually(lambda: len(view.snapshot().loop.domains[0].verdicts) == 2)
                pid = process.pid
                await eventually(lambda: [it.pid for it in view.snapshot().processes] == [pid])
        finally:
            await asyncio.to_thread(process.stop)
