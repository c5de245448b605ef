"""The factory on a bus: heads, bodies, versions, and that a kill publishes nothing twice."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora.model import DEFAULT_ID, DEFAULT_SHA256
from lora.store import CardStore
from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    FeedbackJudged,
    ListedCard,
    SkillCard,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
)
from services.factory.service import SkillFactory
from services.factory.tasks import MAX_FAILURES
from services.runtime.service import Context
from services.runtime.settings import FactorySettings, Settings
from tests.services.factory.fakes import described, stage, until, vector

NAME = "factory"
CHILD = "tests.services.factory.fake_child"


class Plan:
    """What the fake child is told, and what it was asked."""

    def __init__(self, folder: Path, *, head: bool = True, body: bool = False) -> None:
        self.file = folder / "plan.json"
        self.gate = folder / "go"
        self.phases: dict[str, dict[str, Any]] = {
            "head": {"accepted": head},
            "body": {"accepted": body},
        }
        self.save()

    def save(self) -> None:
        self.file.write_text(json.dumps(self.phases))

    def holds(self, phase: str) -> None:
        """Children of this phase stay until `gate` is there."""
        self.phases[phase]["wait"] = str(self.gate)
        self.save()

    @property
    def log(self) -> list[dict[str, Any]]:
        log = self.file.with_suffix(".log")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def factory(self, context: Context) -> SkillFactory:
        return SkillFactory(context, child=(sys.executable, "-m", CHILD, str(self.file)))


def settings(**changes: Any) -> Settings:
    return Settings(factory=FactorySettings(**{"quiet_period": 0.0, "threads": 1} | changes))


def task(name: str, *, skill: str = "birds", rows: int = 100) -> Event[TrainingRequested]:
    data = TrainingRequested(
        task_id=name,
        skill=skill,
        domain=skill,
        dataset=DatasetRef(digest="sha256:" + "d" * 64, rows=rows),
        base_model=BaseModelRef(id=DEFAULT_ID, sha256=DEFAULT_SHA256),
        batch_ids=(name,),
    )
    return Event(data=data, source="/distiller/1", id=f"event-{name}")


def feedback(number: int, domain: str = "birds") -> Event[FeedbackJudged]:
    data = FeedbackJudged(
        feedback_id=f"{domain}{number}",
        query=f"{domain} query number {number}",
        relevant=(f"right answer {number}",),
        irrelevant=(f"query number {number + 1}",),
        domain=domain,
        served=(),
        rouge_score=0.0,
        entropy_delta=0.0,
    )
    return Event(data=data, source="/dissonance_monitor/1", id=f"{domain}{number}")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.factory.service.RETRY", 0.05)


async def test_head_and_body_are_two_successive_versions(tmp_path: Path) -> None:
    plan = Plan(tmp_path, body=True)
    async with stage(tmp_path, settings()) as on, on.service(plan.factory, NAME) as factory:
        async with on.bus.watch(TrainingProgressed) as progress:
            await on.bus.publish(task("t1"))
            head, body = await on.until(2, SkillPublished)
            assert (await progress.get(5)).data.task_id == "t1"
        await until(lambda: factory.counters["published"] == 2 and factory.queue == 0)

    assert (head.card.version, body.card.version) == (1, 2)
    assert head.card.parents == ()
    assert body.card.parents == (head.card.digest,)
    assert head.task_id == body.task_id == "t1"
    store = CardStore(on.state.cards)
    assert store.open(body.card.digest).version == 2
    assert [entry["phase"] for entry in plan.log] == ["head", "body"]
    assert plan.log[1]["champion"] == 1
    assert Path(plan.log[1]["folds"]).is_dir()
    assert [entry["attempts"] for entry in plan.log] == [0, 0]
    assert list((tmp_path / "factory" / "jobs").iterdir()) == []


async def test_a_rejected_head_does_not_prevent_the_body(tmp_path: Path) -> None:
    plan = Plan(tmp_path, head=False, body=True)
    async with stage(tmp_path, settings()) as on, on.service(plan.factory, NAME):
        await on.bus.publish(task("t1"))
        (refused,) = await on.until(1, TrainingRejected)
        (published,) = await on.until(1, SkillPublished)

    assert refused.reason == "head: not better"
    assert refused.metrics == {"before": 0.5, "after": 0.6, "low": None}
    assert published.card.version == 1
    assert list(CardStore(on.state.cards).digests()) == [published.card.digest]


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


async def test_a_full_disk_keeps_a_task_waiting_and_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(tmp_path)
    plan.phases["head"]["fails"] = True
    plan.save()
    monkeypatch.setattr("services.runtime.disk.PATIENCE", 0.05)
    monkeypatch.setattr("services.runtime.disk.RESERVE", 1 << 80)
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME),
    ):
        await on.bus.publish(task("t1"))
        await until(lambda: len(plan.log) > MAX_FAILURES)
        assert await on.said(TrainingRejected) == []
        monkeypatch.setattr("services.runtime.disk.RESERVE", 0)
        plan.phases["head"]["fails"] = False
        plan.save()
        (published,) = await on.until(1, SkillPublished)

    assert published.task_id == "t1"


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


@pytest.mark.parametrize("tight", [200_000_000, 0], ids=["fits", "never-fits"])
async def test_a_training_that_outgrows_its_memory_is_tried_once_more_with_a_smaller_plan(
    tmp_path: Path, tight: int
) -> None:
    budget = 400_000_000
    plan = Plan(tmp_path)
    plan.phases["head"] |= {"hogs": 600_000_000, "tight": tight}
    plan.save()
    async with (
        stage(tmp_path, settings(body_schedule="off", memory_budget=budget)) as on,
        on.service(plan.factory, NAME),
    ):
        await on.bus.publish(task("t1"))
        (said,) = await on.until(1, SkillPublished, TrainingRejected)

    assert [entry["memory"] for entry in plan.log] == [budget, budget // 2]
    assert isinstance(said, SkillPublished) == bool(tight)
    if isinstance(said, TrainingRejected):
        assert "more than the 400,000,000 bytes of factory.memory_budget" in said.reason
        assert said.depth == "head"


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


async def test_a_half_done_job_goes_on_after_a_kill(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, settings(body_schedule="off")) as on:
        async with on.service(plan.factory, NAME):
            await on.bus.publish(task("t1"))
            await until(lambda: len(plan.log) == 1)
        plan.gate.touch()
        async with on.service(plan.factory, NAME):
            (published,) = await on.until(1, SkillPublished)

    assert published.task_id == "t1"
    assert [entry["goes_on"] for entry in plan.log] == [False, True]


@pytest.mark.parametrize("moment", ["judged", "stored", "recorded", "published"])
async def test_killed_on_the_way_to_publication_a_card_is_published_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    plan = Plan(tmp_path)
    died = asyncio.Event()

    async def die(*given: object, **named: object) -> None:
        died.set()
        await asyncio.Event().wait()

    async with stage(tmp_path, settings(body_schedule="off")) as on:
        async with on.service(plan.factory, NAME) as factory:
            _die_at(moment, factory, die, monkeypatch)
            await on.bus.publish(task("t1"))
            await asyncio.wait_for(died.wait(), 20)
        monkeypatch.undo()
        async with on.service(plan.factory, NAME) as factory:
            await on.until(1, SkillPublished)
            await until(lambda: factory.queue == 0 and not factory._ledger.outbox())
            assert len(await on.said(SkillPublished)) == 1

    assert len(plan.log) == 1
    assert len(CardStore(on.state.cards).digests()) == 1


def _die_at(
    moment: str, factory: SkillFactory, die: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if moment == "judged":
        monkeypatch.setattr(factory._publisher, "conclude", die)
    elif moment == "stored":
        real = asyncio.to_thread

        async def to_thread(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
            found = await real(work, *given, **named)
            if work == factory._publisher._stored:
                await die()
            return found

        monkeypatch.setattr("services.factory.publication.asyncio.to_thread", to_thread)
    else:
        publish = factory.bus.publish

        async def said(*events: Event[Any]) -> Any:
            if events[0].type != SkillPublished.type:
                return await publish(*events)
            if moment == "published":
                await publish(*events)
            return await die()

        monkeypatch.setattr(factory.bus, "publish", said)


async def test_a_child_that_fails_is_tried_thrice_then_the_task_is_refused(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    plan.phases["head"]["fails"] = True
    plan.save()
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME),
    ):
        await on.bus.publish(task("t1"))
        (refused,) = await on.until(1, TrainingRejected)

    # The third time nothing is taken over: it may be what the others failed of.
    assert [entry["goes_on"] for entry in plan.log] == [False, True, False]
    assert "the child was told to fail" in refused.reason
    assert list((tmp_path / "factory" / "jobs").iterdir()) == []


async def test_versions_that_others_made_count(tmp_path: Path) -> None:
    """Given an imported version 7 whose card is in the store, the next one is 8."""
    plan = Plan(tmp_path)
    async with stage(tmp_path, settings(body_schedule="off")) as on:
        async with on.service(plan.factory, NAME):
            await on.bus.publish(task("t1"))
            (first,) = await on.until(1, SkillPublished)
        imported = first.card
        (tmp_path / "factory" / "factory.sqlite").unlink()
        for name in ("factory.sqlite-wal", "factory.sqlite-shm"):
            (tmp_path / "factory" / name).unlink(missing_ok=True)
        values = {name: getattr(imported, name) for name in imported.__struct_fields__}
        on.fleet.listed = [described(type(imported)(**values | {"version": 7}))]
        async with on.service(plan.factory, NAME):
            await on.bus.publish(task("t2"))
            second = (await on.until(2, SkillPublished))[1]

    assert second.card.version == 8
    assert second.card.parents == (imported.digest,)


async def test_only_versions_in_service_for_this_model_are_champions(tmp_path: Path) -> None:
    """Given, in several parts: a version that waits, one of another model, one that serves."""
    plan = Plan(tmp_path)
    async with stage(tmp_path, settings(body_schedule="off")) as on:
        async with on.service(plan.factory, NAME):
            await on.bus.publish(task("t1"))
            (first,) = await on.until(1, SkillPublished)
        values = {name: getattr(first.card, name) for name in SkillCard.__struct_fields__}

        def version(number: int, state: str = "installed", **more: Any) -> ListedCard:
            changes = {"version": number, "digest": f"sha256:{number:064d}", **more}
            return described(SkillCard(**values | changes), state)

        foreign = BaseModelRef(id="another", sha256="a" * 64)
        on.fleet.listed = [version(5, "pending"), version(6, base_model=foreign)]
        on.fleet.listed.append(described(first.card))
        async with on.service(plan.factory, NAME):
            await on.bus.publish(task("t2"))
            second = (await on.until(2, SkillPublished))[1]

    assert second.card.parents == (first.card.digest,)
    assert second.card.version == 7


async def test_a_version_that_was_rejected_is_champion_no_more(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        await on.bus.publish(task("t1"))
        (first,) = await on.until(1, SkillPublished)
        data = SkillRejected(name="birds", digest=first.card.digest, reason="unsound")
        await on.bus.publish(Event(data=data, source="/adapter_manager/1"))
        await until(lambda: factory._versions.newest("birds") is None)
        await on.bus.publish(task("t2"))
        second = (await on.until(2, SkillPublished))[1]

    assert second.card.version == 2
    assert second.card.parents == ()


async def test_queries_of_other_domains_are_negatives(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        await on.bus.publish(*(feedback(number, "bees") for number in range(5)))
        await until(lambda: factory._feedback.others("birds", 9) is not None)
        await on.bus.publish(task("t1"))
        await on.until(1, SkillPublished)
        assert len(factory._feedback.others("birds", 3)) == 3
        assert factory._feedback.others("bees", 9) is None

    assert plan.log[0]["negatives"] is not None


async def test_a_version_worse_than_the_one_before_is_retired(tmp_path: Path) -> None:
    """The later feedback's right answers are found by the base model, and not by version 1."""
    plan = Plan(tmp_path)
    async with (
        stage(tmp_path, settings(body_schedule="off", shadow_min=50)) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        await on.bus.publish(task("t1"))
        (published,) = await on.until(1, SkillPublished)
        on.fleet.cards[published.card.digest] = lambda text, base: vector("query number 7")
        later = []
        for number in range(60):
            event = feedback(number)
            data = FeedbackJudged(
                feedback_id=f"later{number}",
                query=f"right answer to question {number}",
                relevant=(f"right answer {number}",),
                irrelevant=(f"query number {number}",),
                domain="birds",
                served=(),
                rouge_score=1.0,
                entropy_delta=0.0,
            )
            later.append(Event(data=data, source=event.source, id=f"later{number}"))
        await on.bus.publish(*later[:49])
        await until(lambda: factory._feedback.count_since("birds", 0.0) == 49)
        assert await on.said(SkillRetire) == []
        await on.bus.publish(*later[49:])
        (retired,) = await on.until(1, SkillRetire)
        assert factory._versions.newest("birds") is None

    assert (retired.name, retired.version) == ("birds", 1)
    assert retired.digest == published.card.digest
    assert retired.successor is None
    assert "worse than the base model" in retired.reason


async def test_a_task_taken_twice_is_done_once(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        event = task("t1")
        await on.bus.publish(event)
        await on.until(1, SkillPublished)
        again = Event(data=event.data, source=event.source, id="said again")
        await on.bus.publish(again, feedback(1))
        await until(lambda: factory._feedback.count_since("birds", 0.0) == 1)
        await until(lambda: factory.queue == 0)

    assert len(plan.log) == 1
