"""The factory on a bus: heads, bodies, versions, and that a kill publishes nothing twice."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora.store import CardStore
from schemas import (
    BaseModelRef,
    Event,
    FeedbackJudged,
    ListedCard,
    SkillCard,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    TrainingProgressed,
    TrainingRejected,
)
from services.factory.service import SkillFactory
from services.factory.tasks import MAX_FAILURES
from tests.services.factory.fakes import described, stage, until, vector
from tests.services.factory.plans import NAME, Plan, feedback, settings, task


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


@pytest.mark.parametrize("wanted", [False, True])
async def test_bodies_alone_are_told_to_probe_and_only_where_it_is_wanted(
    tmp_path: Path, wanted: bool
) -> None:
    plan = Plan(tmp_path, body=True)
    async with stage(tmp_path, settings(probe=wanted)) as on, on.service(plan.factory, NAME):
        await on.bus.publish(task("t1"))
        await on.until(2, SkillPublished)

    told = {entry["phase"]: entry["settings"] for entry in plan.log}
    assert told["body"].get("probe", False) is wanted
    assert "probe" not in told["head"]


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


def later_feedback(count: int) -> list[Event[FeedbackJudged]]:
    """Questions that the base model answers rightly."""
    later = []
    for number in range(count):
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
    return later


async def test_a_bad_version_neither_returns_nor_covers_for_the_next_one(tmp_path: Path) -> None:
    """Versions 2 and 3 are equally bad, and 3 was there before anybody could tell of 2."""
    plan = Plan(tmp_path)
    async with (
        stage(tmp_path, settings(body_schedule="off", shadow_min=50)) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        for number in (1, 2, 3):
            await on.bus.publish(task(f"t{number}"))
            cards = [event.card for event in await on.until(number, SkillPublished)]
        good, bad, worst = (card.digest for card in cards)
        on.fleet.cards[good] = lambda text, base: base
        on.fleet.cards[bad] = lambda text, base: vector("query number 7")
        on.fleet.cards[worst] = on.fleet.cards[bad]
        await on.bus.publish(*later_feedback(60))
        first, second = await on.until(2, SkillRetire)
        serves = factory._versions.newest("birds")

    assert (first.digest, first.successor) == (bad, worst), "the third version serves on"
    assert (second.digest, second.successor) == (worst, good)
    assert serves is not None
    assert serves.card.digest == good


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
        later = later_feedback(60)
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
