"""The factory forgets a domain: feedback, tasks, and the training under way."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from schemas import DomainForgotten, SkillPublished, TrainingRejected
from services.factory.tasks import FORGOTTEN
from tests.services.factory.fakes import Stage, stage, until
from tests.services.factory.plans import NAME, Plan, feedback, settings, task
from tests.services.forgetting import holding, word

BEFORE = "distiller"


async def forgotten(on: Stage) -> DomainForgotten:
    async def mine() -> list[DomainForgotten]:
        words = [event.data for event in await on.said(DomainForgotten)]
        return [data for data in words if data.service == NAME]

    await until(mine)
    return (await mine())[-1]


def children() -> list[psutil.Process]:
    return [it for it in psutil.Process().children() if it.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("phase", ["head", "body"])
async def test_its_feedback_goes_and_its_training_is_ended(tmp_path: Path, phase: str) -> None:
    plan = Plan(tmp_path, head=False, body=False)
    plan.holds(phase)
    others = children()  # of other tests: a browser's
    async with stage(tmp_path, settings()) as on, on.service(plan.factory, NAME) as factory:
        await on.bus.publish(*(feedback(number) for number in range(5)))
        await on.bus.publish(*(feedback(number, "bees") for number in range(3)))
        await on.bus.publish(task("t1"))
        await until(lambda: [entry["phase"] for entry in plan.log][-1:] == [phase])
        folder = on.state.of(NAME)
        assert holding(folder, ["birds query number 3"])

        await on.bus.publish(word("birds", BEFORE))
        said = await forgotten(on)
        assert holding(folder, ["birds query", "birds0"]) == []
        assert holding(folder, ["bees query number 1"])
        assert children() == others
        assert list((folder / "jobs").iterdir()) == []
        refused = (await on.until(1 if phase == "head" else 2, TrainingRejected))[-1]
        await until(lambda: factory.queue == 0)

    assert (refused.task_id, refused.reason, refused.depth) == ("t1", FORGOTTEN, phase)
    assert said.erased >= 6


async def test_what_comes_later_is_trained_and_others_go_on(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    plan.holds("head")
    config = settings(body_schedule="off")
    async with stage(tmp_path, config) as on, on.service(plan.factory, NAME):
        await on.bus.publish(task("b1", skill="bees"))
        await until(lambda: len(plan.log) == 1)
        await on.bus.publish(task("t1"), word("birds", BEFORE), task("t2"))
        await forgotten(on)
        plan.gate.touch()
        published = await on.until(2, SkillPublished)
        (refused,) = await on.until(1, TrainingRejected)

    assert {data.task_id for data in published} == {"b1", "t2"}
    assert (refused.task_id, refused.reason) == ("t1", FORGOTTEN)
    assert len(plan.log) == 2, "the training of another skill was not begun anew"


async def test_versions_are_compared_anew_on_what_comes_again(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    config = settings(body_schedule="off")
    async with stage(tmp_path, config) as on, on.service(plan.factory, NAME) as factory:
        await on.bus.publish(task("t1"))
        await on.until(1, SkillPublished)
        (version,) = factory._versions.chain("birds")
        factory._versions.look_again_at(version, 5000)
        await on.bus.publish(word("birds", BEFORE))
        await forgotten(on)
        (version,) = factory._versions.chain("birds")

    assert version.next_look == 0
    assert version.card.description == "", "what stays of the skill holds no text of anybody's"
