"""Several factories on one bus: a task is trained once, and what one leaves undone another does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bus.memory import MemoryBus
from schemas import FleetHeartbeat, SkillPublished, TrainingRejected
from services.factory.service import SkillFactory
from services.factory.sharing import VOICE
from services.factory.tasks import SUPERSEDED
from services.runtime.service import Context
from services.runtime.settings import Settings
from services.runtime.state import StateFolder
from tests.services.factory.fakes import Stage, stage, until
from tests.services.factory.plans import Plan, settings, task

BEAT = 0.05
SKILLS = ("beans", "birds", "boats", "books")  # of two factories the first has one of them


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.factory.service.RETRY", 0.05)
    monkeypatch.setattr("services.factory.sharing.SETTLED", 6 * BEAT)


def heads_only(**changes: Any) -> Settings:
    return settings(body_schedule="off", **changes)


class Host:
    """A machine with a factory: a folder of its own, and heartbeats unless it is cut off."""

    def __init__(self, on: Stage, plan: Plan, number: int, *, beats: bool = True) -> None:
        self.on, self.plan, self.number, self.beats = on, plan, number, beats
        self.folder = plan.file.parent / f"host{number}"
        self.factory: SkillFactory

    @asynccontextmanager
    async def up(self) -> AsyncIterator["Host"]:
        """Leaving kills it, without a word."""
        async with MemoryBus(self.on.name, source=f"/factory/{self.number}") as bus:
            state = StateFolder(self.folder)
            context = Context(self.on.settings, bus, state, str(self.number))
            self.factory = self.plan.factory(context)
            beating = asyncio.create_task(self._beat()) if self.beats else None
            try:
                await self.factory.setup()
                yield self
            finally:
                if beating is not None:
                    beating.cancel()
                await self.factory.aclose()

    async def _beat(self) -> None:
        while True:
            await self.say("ready")
            await asyncio.sleep(BEAT)

    async def say(self, state: str) -> None:
        beat = FleetHeartbeat(
            service="factory",
            instance=str(self.number),
            pid=self.number,
            state=state,
            queue=0,
            rss_bytes=1,
            counters=dict(self.factory.counters),
        )
        await self.factory.say(beat)

    def has(self, skill: str) -> bool:
        return self.factory._sharing.is_mine(skill, asyncio.get_running_loop().time())

    @property
    def owes(self) -> int:
        return len(self.factory._ledger.owed())


async def acquainted(*hosts: Host) -> None:
    """Every one of them knows of all others."""
    now = asyncio.get_running_loop().time
    await until(
        lambda: all(len(it.factory._sharing._siblings.at_work(now())) == len(hosts) for it in hosts)
    )


async def test_every_task_is_trained_once_and_each_factory_has_its_share(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    async with stage(tmp_path, heads_only()) as on:
        one, two = Host(on, plan, 1), Host(on, plan, 2)
        async with one.up(), two.up():
            await acquainted(one, two)
            assert all(one.has(skill) != two.has(skill) for skill in SKILLS)
            await on.bus.publish(*(task(f"t-{skill}", skill=skill) for skill in SKILLS))
            await on.until(len(SKILLS), SkillPublished)
            await until(lambda: one.owes == two.owes == 0)
            said = [one.factory.counters["published"], two.factory.counters["published"]]
            numbers = [
                [host.factory._versions.next_number(skill) for skill in SKILLS]
                for host in (one, two)
            ]
        published = await on.said(SkillPublished)

    assert sorted(entry["task"] for entry in plan.log) == sorted(f"t-{it}" for it in SKILLS)
    assert sum(said) == len(SKILLS)
    assert min(said) > 0
    assert {event.source for event in published} == {VOICE}
    assert numbers == [[2] * len(SKILLS)] * 2, "each knows of the other's versions"


async def test_what_a_killed_factory_had_is_trained_by_another_and_not_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, heads_only()) as on:
        one, two = Host(on, plan, 1), Host(on, plan, 2)
        async with one.up():
            async with two.up():
                await acquainted(one, two)
                skill = next(it for it in SKILLS if two.has(it))
                await on.bus.publish(task("old", skill=skill))
                await until(lambda: len(plan.log) == 1 and one.owes == two.owes == 1)
                # While one trains it, the other knows, and would leave it alone.
                await until(lambda: f"trains:{skill}" in two.factory.counters)
                await until(lambda: skill in one.factory._sharing._busy.get("factory-2", ()))
            plan.gate.touch()
            # What six seconds of silence say, at once.
            one.factory._sharing._siblings.hear("factory-2", "stopped", 0.0)
            (made,) = await on.until(1, SkillPublished)
            assert [entry["task"] for entry in plan.log] == ["old", "old"]
            assert one.owes == 0

        async with two.up():
            await until(lambda: two.owes == 0)
            assert two.factory._versions.next_number(skill) == 2
        assert len(plan.log) == 2, "it read in the journal what became of it"
        assert [event.data.card.digest for event in await on.said(SkillPublished)] == [
            made.card.digest
        ]


async def test_a_newer_task_takes_the_place_of_an_older_one_in_all_stores(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, heads_only()) as on:
        one, two = Host(on, plan, 1), Host(on, plan, 2)
        async with one.up(), two.up():
            await acquainted(one, two)
            skill = next(it for it in SKILLS if two.has(it))
            for name, rows in (("first", 100), ("second", 101), ("third", 103)):
                await on.bus.publish(task(name, skill=skill, rows=rows))
                await until(lambda name=name: any(it["task"] == name for it in plan.log))
            plan.gate.touch()
            await on.until(1, SkillPublished)
            await until(lambda: one.owes == two.owes == 0)
        refused = [event.data for event in await on.said(TrainingRejected)]
    assert [(it.task_id, it.reason) for it in refused] == [
        ("first", SUPERSEDED),
        ("second", SUPERSEDED),
    ]


async def test_factories_that_do_not_hear_of_each_other_publish_one_version_all_the_same(
    tmp_path: Path,
) -> None:
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, heads_only()) as on:
        one, two = Host(on, plan, 1, beats=False), Host(on, plan, 2, beats=False)
        async with one.up(), two.up():
            await on.bus.publish(task("t"))
            await until(lambda: len(plan.log) == 2)
            plan.gate.touch()
            await on.until(1, SkillPublished)
            await until(lambda: one.owes == two.owes == 0)
            await until(lambda: not one.factory._lanes.skills | two.factory._lanes.skills)
            versions = {it.factory._versions.next_number("birds") for it in (one, two)}
        assert len(await on.said(SkillPublished)) == 1
    assert versions == {2}
