"""Which of the owed trainings is begun, and when: bursts, bodies and heads, schedules."""

from pathlib import Path

import pytest

from schemas import (
    SkillPublished,
    TrainingRejected,
)
from tests.services.factory.fakes import stage, until
from tests.services.factory.plans import NAME, Plan, settings, task


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.factory.service.RETRY", 0.05)


async def test_pending_tasks_of_a_skill_coalesce_into_the_newest(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    async with stage(tmp_path, settings(body_schedule="off")) as on:
        await on.bus.publish(task("t1"), task("t2"), task("other", skill="bees"), task("t3"))
        plan.holds("head")
        async with on.service(plan.factory, NAME):
            await until(lambda: len(plan.log) == 1)
            plan.gate.touch()
            await on.until(4, SkillPublished, TrainingRejected)
        published = {event.data.task_id for event in await on.said(SkillPublished)}
        refused = {e.data.task_id: e.data.reason for e in await on.said(TrainingRejected)}

    # Whichever of the three was in training when the next one came was let finish.
    assert {"t3", "other"} <= published
    assert published | set(refused) == {"t1", "t2", "t3", "other"}
    assert set(refused.values()) == {"superseded"}


async def test_in_a_burst_the_newest_task_takes_the_place_of_a_head_just_begun(
    tmp_path: Path,
) -> None:
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, settings(body_schedule="off")) as on:
        async with on.service(plan.factory, NAME):
            for number in (1, 2, 3):
                await on.bus.publish(task(f"t{number}", rows=100 + number))
                await until(lambda number=number: len(plan.log) == number)
            plan.gate.touch()
            (published,) = await on.until(1, SkillPublished)
        refused = {
            event.data.task_id: event.data.reason for event in await on.said(TrainingRejected)
        }

    assert published.task_id == "t3"
    assert refused == {"t1": "superseded", "t2": "superseded"}


async def test_later_only_a_much_larger_task_takes_the_place_of_a_head_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.factory.lanes.POSTPONED", 0.0)
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, settings(body_schedule="off")) as on:
        async with on.service(plan.factory, NAME):
            await on.bus.publish(task("t1", rows=100))
            await until(lambda: len(plan.log) == 1)
            await on.bus.publish(task("t2", rows=149))
            await on.bus.publish(task("t3", rows=150))
            await until(lambda: len(plan.log) == 2)
            plan.gate.touch()
            (published,) = await on.until(1, SkillPublished)
        refused = {event.data.task_id for event in await on.said(TrainingRejected)}

    assert published.task_id == "t3"
    assert refused == {"t1", "t2"}
    assert list((tmp_path / "factory" / "jobs").iterdir()) == []


async def test_what_a_newer_task_outdated_is_not_begun_again_after_a_kill(tmp_path: Path) -> None:
    """And the folder of the half done job goes."""
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, settings(body_schedule="off")) as on:
        async with on.service(plan.factory, NAME) as factory:
            await on.bus.publish(task("t1"))
            await until(lambda: len(plan.log) == 1)
            await on.bus.publish(task("t2"))
            await until(lambda: len(factory._ledger.owed()) == 2)
        plan.gate.touch()
        async with on.service(plan.factory, NAME):
            (refused,) = await on.until(1, TrainingRejected)
            (published,) = await on.until(1, SkillPublished)

    assert (refused.task_id, refused.reason) == ("t1", "superseded")
    assert published.task_id == "t2"
    assert [entry["task"] for entry in plan.log] == ["t1", "t2"]
    assert list((tmp_path / "factory" / "jobs").iterdir()) == []


async def test_a_head_runs_beside_a_body_whose_champion_it_changes(tmp_path: Path) -> None:
    plan = Plan(tmp_path, body=True)
    plan.holds("body")
    async with stage(tmp_path, settings()) as on, on.service(plan.factory, NAME):
        await on.bus.publish(task("t1"))
        await until(lambda: [entry["phase"] for entry in plan.log] == ["head", "body"])
        await on.bus.publish(task("t2"))
        first, second = await on.until(2, SkillPublished)
        plan.gate.touch()
        third = (await on.until(3, SkillPublished))[2]
        refused = await on.said(TrainingRejected)

    assert [first.task_id, second.task_id, third.task_id] == ["t1", "t2", "t2"]
    assert [event.data.task_id for event in refused] == ["t1"]
    assert [first.card.version, second.card.version, third.card.version] == [1, 2, 3]
    assert third.card.parents == (second.card.digest,)


async def test_from_its_turn_on_heads_wait_for_a_body_also_across_a_kill(tmp_path: Path) -> None:
    """Given a body in training at its hour, a newer task, and a kill."""
    plan = Plan(tmp_path, body=True)
    plan.holds("body")
    always = settings(body_schedule="cron", cron="* * * * * *")
    async with stage(tmp_path, always) as on:
        async with on.service(plan.factory, NAME) as factory:
            await on.bus.publish(task("t1"))
            await until(lambda: [entry["phase"] for entry in plan.log] == ["head", "body"])
            await on.bus.publish(task("t2"), task("t3", skill="bees"))
            await on.until(2, SkillPublished)
            await until(lambda: len(factory._ledger.owed("birds")) == 2)
        async with on.service(plan.factory, NAME):
            await until(lambda: len(plan.log) >= 4)
            plan.gate.touch()
            published = await on.until(5, SkillPublished, within=40)
        refused = await on.said(TrainingRejected)

    of_birds = [event for event in published if event.card.name == "birds"]
    of_birds = of_birds[:3]  # the body of the other skill may come before the third
    assert [event.task_id for event in of_birds] == ["t1", "t1", "t2"]
    assert of_birds[2].card.parents == (of_birds[1].card.digest,)
    assert [event.depth for event in of_birds] == ["head", "body", "head"]
    assert [event.schedule for event in of_birds] == ["at_once", "cron", "at_once"]
    assert [event.attempts for event in of_birds] == [1, 1, 1]
    assert of_birds[0].seconds == 0.1
    assert refused == []


async def test_a_body_that_takes_far_longer_than_planned_holds_heads_up_no_more(
    tmp_path: Path,
) -> None:
    plan = Plan(tmp_path, body=True)
    plan.holds("body")
    short = settings(body_schedule="at_once", body_time_budget=0.2)
    async with stage(tmp_path, short) as on, on.service(plan.factory, NAME):
        await on.bus.publish(task("t1"))
        await until(lambda: [entry["phase"] for entry in plan.log] == ["head", "body"])
        await on.bus.publish(task("t2"))
        second = (await on.until(2, SkillPublished))[1]
        (refused,) = await on.until(1, TrainingRejected)

    assert second.task_id == "t2"
    assert (refused.task_id, refused.reason, refused.depth) == ("t1", "superseded", "body")


async def test_the_body_waits_for_the_quiet_period_across_a_restart(tmp_path: Path) -> None:
    plan = Plan(tmp_path, body=True)
    async with stage(tmp_path, settings(quiet_period=1.0)) as on:
        async with on.service(plan.factory, NAME):
            await on.bus.publish(task("t1"))
            await on.until(1, SkillPublished)
            assert [entry["phase"] for entry in plan.log] == ["head"]
        async with on.service(plan.factory, NAME):
            await on.until(2, SkillPublished)


async def test_no_body_is_trained_where_the_schedule_is_off(tmp_path: Path) -> None:
    plan = Plan(tmp_path, body=True)
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        await on.bus.publish(task("t1"))
        await on.until(1, SkillPublished)
        await until(lambda: factory.queue == 0)

    assert [entry["phase"] for entry in plan.log] == ["head"]
