"""Orders and teachers on a bus: nothing waits for a slow one, and no kill loses or doubles."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lora.training.dataset import TrainingSet
from schemas import (
    Event,
    LearningBatchQueued,
    LearningBatchRejected,
    TrainingRequested,
)
from services.distiller import orders
from services.distiller.orders import OrderStore
from services.distiller.service import MAX_DEATHS, Distiller
from services.distiller.skill_distiller import Distilled, SkillDistiller
from services.distiller.taught import TaughtStore
from services.distiller.teacher import TEACHERS, Contribution, Material, Pair
from services.runtime.settings import (
    DistillerSettings,
    FleetSettings,
    Settings,
    TeacherSettings,
)
from services.runtime.store import open_store
from tests.services.distiller.material import batch, dataset, judged, query
from tests.services.factory.fakes import Stage, stage, until

NAME = "distiller"
TAUGHT = Settings(distiller=DistillerSettings(teacher="mock"))

Answer = Callable[[Material], Awaitable[Contribution]]


class Script:
    """A teacher that answers as it is told, and remembers what it was shown."""

    name = "script"

    def __init__(self) -> None:
        self.shown: list[Material] = []
        self.answer: Answer = self.nothing

    async def nothing(self, material: Material) -> Contribution:
        return Contribution()

    async def paraphrases(self, material: Material) -> Contribution:
        return Contribution(
            tuple(
                Pair(f"do tell {asked.text}", asked.relevant[0], 1.0, "paraphrase", asked.text)
                for asked in material.queries
                if asked.relevant
            )
        )

    async def teach(self, material: Material) -> Contribution:
        self.shown.append(material)
        return await self.answer(material)

    async def aclose(self) -> None:
        """Nothing to let go."""


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setitem(TEACHERS, "mock", lambda settings, folder: script)
    monkeypatch.setattr("services.distiller.service.RETRY", 0.05)
    return script


def patient(**values: float) -> Settings:
    rules = TeacherSettings(unavailable="wait", **values)
    return Settings(distiller=DistillerSettings(teacher="mock"), teacher=rules)


async def test_a_slow_teacher_holds_up_neither_feedback_nor_another_domain(
    tmp_path: Path, teacher: Script
) -> None:
    """Given one domain whose teacher does not come back; its later orders are joined."""
    release = asyncio.Event()

    async def answer(material: Material) -> Contribution:
        if material.domain == "birds":
            await release.wait()
        return Contribution()

    teacher.answer = answer
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(batch("b1", range(8)))
        await until(lambda: len(teacher.shown) == 1)
        await on.bus.publish(*(judged(number) for number in range(20, 40)))
        await on.bus.publish(batch("c1", range(8), "bees"))
        (bees,) = await on.until(1, TrainingRequested)
        await on.bus.publish(batch("b2", range(8, 12)), batch("b3", range(12, 16)))
        await until(lambda: distiller.counters["feedback"] == 44)
        await until(lambda: distiller.queue == 3)
        assert len(await on.said(TrainingRequested)) == 1
        release.set()
        _, first, second = await on.until(3, TrainingRequested)

    assert bees.domain == "bees"
    assert (first.batch_ids, second.batch_ids) == (("b1",), ("b2", "b3"))


async def test_what_a_teacher_adds_is_named_by_kind_and_asked_for_once(
    tmp_path: Path, teacher: Script
) -> None:
    teacher.answer = teacher.paraphrases
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(8)))
        (first,) = await on.until(1, TrainingRequested)
        await on.bus.publish(batch("b2", range(4, 12)))
        _, second = await on.until(2, TrainingRequested)

    shown = [[asked.text for asked in material.queries] for material in teacher.shown]
    assert shown == [[query(n) for n in range(8)], [query(n) for n in range(8, 12)]]
    assert len(teacher.shown[0].passages) == 8
    assert teacher.shown[1].passages == ()
    asked = teacher.shown[0].queries[0]
    assert (asked.relevant, asked.irrelevant) == (("heron food",), ("thrush food",))
    assert len(asked.near) == 6
    assert not {*asked.relevant, *asked.irrelevant} & set(asked.near)
    assert first.sources["script.paraphrase"] == 8
    assert second.sources["script.paraphrase"] == 12
    assert first.teacher_reason is None
    assert int(dataset(on, second).metadata["kept.script.paraphrase"]) == 12


async def kill_when(on: Stage, teacher: Script, reached: Callable[[], object]) -> None:
    """Start a distiller on the one batch, and kill it as soon as something is reached."""
    async with on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(8)))
        await until(reached)


async def test_killed_while_the_teacher_is_asked(tmp_path: Path, teacher: Script) -> None:
    async def never(material: Material) -> Contribution:
        await asyncio.Event().wait()
        raise AssertionError

    async with stage(tmp_path, TAUGHT) as on:
        teacher.answer = never
        await kill_when(on, teacher, lambda: teacher.shown)
        teacher.answer = teacher.paraphrases
        async with on.service(Distiller, NAME) as distiller:
            (task,) = await on.until(1, TrainingRequested)
            await until(lambda: distiller.queue == 0)

    assert teacher.shown[0] == teacher.shown[1]
    assert task.sources["script.paraphrase"] == 8


@pytest.mark.parametrize("moment", ["before it is written", "before it is said", "when it is said"])
async def test_killed_after_the_teacher_answered(
    tmp_path: Path, teacher: Script, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It is not asked again, and one training is asked for, with what it said and why not more."""

    async def answer(material: Material) -> Contribution:
        found = await teacher.paraphrases(material)
        return Contribution(found.pairs, reason="half of it was refused")

    teacher.answer = answer
    reached = asyncio.Event()
    async with stage(tmp_path, TAUGHT) as on:
        async with on.service(Distiller, NAME) as distiller:
            real = distiller.bus.publish

            async def publish(*events: Event[object]) -> object:
                if not isinstance(events[0].data, TrainingRequested):
                    return await real(*events)
                if moment == "when it is said":
                    await real(*events)
                reached.set()
                await asyncio.Event().wait()
                raise AssertionError

            def write(data: TrainingSet, folder: Path) -> str:
                reached.set()
                raise OSError("killed")

            with monkeypatch.context() as patched:
                if moment == "before it is written":
                    patched.setattr(TrainingSet, "write", write)
                else:
                    patched.setattr(distiller.bus, "publish", publish)
                await on.bus.publish(batch("b1", range(8)))
                await reached.wait()
                await distiller.aclose()
        async with on.service(Distiller, NAME) as distiller:
            await on.bus.publish(batch("other", range(8), "bees"))
            tasks = await on.until(2, TrainingRequested)
            await until(lambda: distiller.queue == 0)
            assert len(await on.said(TrainingRequested)) == 2

    (task,) = [task for task in tasks if task.domain == "birds"]
    assert [material.domain for material in teacher.shown] == ["birds", "bees"]
    assert task.sources["script.paraphrase"] == 8
    assert task.teacher_reason == "half of it was refused"


async def test_without_a_teacher_to_be_had_feedback_alone_goes_on_and_the_rest_is_asked_later(
    tmp_path: Path, teacher: Script
) -> None:
    async def busy(material: Material) -> Contribution:
        return Contribution(reason="the day's money is spent", again=time.time() + 9999)

    teacher.answer = busy
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(8)))
        (first,) = await on.until(1, TrainingRequested)
        teacher.answer = teacher.paraphrases
        await on.bus.publish(batch("b2", range(8, 12)))
        _, second = await on.until(2, TrainingRequested)

    assert first.teacher_reason == "the day's money is spent"
    assert not [source for source in first.sources if source.startswith("script")]
    assert [asked.text for asked in teacher.shown[1].queries] == [query(n) for n in range(12)]
    assert second.sources["script.paraphrase"] == 12
    assert second.teacher_reason is None


async def test_what_is_left_is_named_again_and_nothing_else(
    tmp_path: Path, teacher: Script
) -> None:
    async def half(material: Material) -> Contribution:
        left = frozenset([material.queries[3].text, material.passages[2]])
        return Contribution(reason="no time", again=time.time() + 9999, left=left)

    teacher.answer = half
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(8)))
        await on.until(1, TrainingRequested)
        await on.bus.publish(batch("b2", range(8)))
        await on.until(2, TrainingRequested)

    first, second = teacher.shown
    assert [asked.text for asked in second.queries] == [first.queries[3].text]
    assert second.passages == (first.passages[2],)


async def test_an_order_waits_for_its_teacher_even_through_a_kill(
    tmp_path: Path, teacher: Script
) -> None:
    """And what comes meanwhile waits with it, and joins it."""
    opens = time.time() + 1.0

    async def answer(material: Material) -> Contribution:
        if time.time() < opens:
            return Contribution(reason="closed", again=opens)
        return await teacher.paraphrases(material)

    teacher.answer = answer
    async with stage(tmp_path, patient(max_wait=60)) as on:
        await kill_when(on, teacher, lambda: teacher.shown)
        async with on.service(Distiller, NAME) as distiller:
            await on.bus.publish(batch("b2", range(8, 12)))
            await until(lambda: distiller.queue == 2)
            (task,) = await on.until(1, TrainingRequested)

    assert time.time() >= opens
    assert task.batch_ids == ("b1", "b2")
    assert task.sources["script.paraphrase"] == 12
    assert task.teacher_reason is None


async def test_nothing_waits_longer_than_allowed(tmp_path: Path, teacher: Script) -> None:
    async def closed(material: Material) -> Contribution:
        return Contribution(reason="closed", again=time.time() + 9999)

    teacher.answer = closed
    async with stage(tmp_path, patient(max_wait=0.3)) as on, on.service(Distiller, NAME):
        began = time.time()
        await on.bus.publish(batch("b1", range(8)))
        (task,) = await on.until(1, TrainingRequested)

    assert time.time() >= began + 0.3
    assert len(teacher.shown) == 2
    assert task.teacher_reason == "closed"


@pytest.mark.parametrize("later", [Settings(), TAUGHT, patient(max_wait=0.0)])
async def test_nothing_waits_on_for_a_teacher_that_the_settings_no_longer_wait_for(
    tmp_path: Path, teacher: Script, later: Settings
) -> None:
    async def closed(material: Material) -> Contribution:
        return Contribution(reason="closed", again=time.time() + 9999)

    teacher.answer = closed
    async with stage(tmp_path, patient(max_wait=9999)) as on:
        async with on.service(Distiller, NAME) as distiller:
            await on.bus.publish(batch("b1", range(8)))
            await until(lambda: any(distiller._orders.domains().values()))
        on.settings = later
        async with on.service(Distiller, NAME):
            await on.until(1, TrainingRequested)


async def test_a_novel_prompt_is_answered_or_refused(tmp_path: Path, teacher: Script) -> None:
    async def answer(material: Material) -> Contribution:
        asked = [asked for asked in material.queries if asked.novel]
        pairs = [Pair(a.text, f"{a.text} and so on", 1.0, "answer", a.text) for a in asked[:2]]
        return Contribution(tuple(pairs), reason="some were refused" if asked else None)

    teacher.answer = answer
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(4), positives=False, reason="novel"))
        (task,) = await on.until(1, TrainingRequested)
        await on.bus.publish(batch("b2", range(2, 4), positives=False, reason="novel"))
        (refused,) = await on.until(1, LearningBatchRejected)

    data = dataset(on, task)
    assert [asked.novel for asked in teacher.shown[0].queries] == [True] * 4
    assert len(teacher.shown) == 1
    assert set(data.queries) == {query(0), query(1)}
    assert not data.real.any()
    assert task.teacher_reason == "some were refused"
    assert refused.batch_id == "b2"


async def test_a_teacher_that_breaks_its_promise_is_a_reason(
    tmp_path: Path, teacher: Script
) -> None:
    async def broken(material: Material) -> Contribution:
        raise ZeroDivisionError

    teacher.answer = broken
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(8)))
        (task,) = await on.until(1, TrainingRequested)

    assert task.teacher_reason == "the teacher script failed: ZeroDivisionError"


async def test_an_order_that_can_never_be_done_is_refused_with_the_reason(
    tmp_path: Path, teacher: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def write(data: TrainingSet, folder: Path) -> str:
        tried.append(data)
        raise OSError("no such thing")

    monkeypatch.setattr(TrainingSet, "write", write)
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(batch("b1", range(8)))
        (refused,) = await on.until(1, LearningBatchRejected)
        await until(lambda: distiller.queue == 0)

    assert refused.reason == "its dataset could not be made: no such thing"
    assert len(tried) == 3


def store_of(on: Stage) -> Path:
    return on.state.of(NAME) / "experience.sqlite"


async def test_a_dataset_that_kills_the_process_each_time_is_given_up(tmp_path: Path) -> None:
    """And only that one: what comes later has its own chances."""
    async with stage(tmp_path) as on:
        with closing(open_store(store_of(on), orders.SCHEMA)) as file:
            for _ in range(MAX_DEATHS):
                OrderStore(file).begin("birds")
        async with on.service(Distiller, NAME):
            await on.bus.publish(batch("deadly", range(8)))
            (refused,) = await on.until(1, LearningBatchRejected)
            await on.bus.publish(batch("later", range(8, 16)))
            (task,) = await on.until(1, TrainingRequested)

    assert refused.reason == "its dataset could not be made: the process died at it 3 times"
    assert FleetSettings().max_failures > MAX_DEATHS
    assert task.batch_ids == ("later",)


async def test_only_while_a_dataset_is_made_a_death_would_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that fails, or is stopped in good order, leaves no trace of this kind."""
    seen: list[int] = []
    real = SkillDistiller.distill
    async with stage(tmp_path) as on:

        def tries() -> list[int]:
            with closing(sqlite3.connect(store_of(on))) as file:
                return [row[0] for row in file.execute("SELECT count FROM tries")]

        def distill(*args: Any, **values: Any) -> Distilled:
            seen.extend(tries())
            if len(seen) == 1:
                raise ZeroDivisionError
            return real(*args, **values)

        monkeypatch.setattr(SkillDistiller, "distill", distill)
        monkeypatch.setattr("services.distiller.service.RETRY", 0.05)
        async with on.service(Distiller, NAME):
            await on.bus.publish(batch("b1", range(8)))
            await on.until(1, TrainingRequested)
            assert tries() == []

    assert seen == [1, 1]


async def test_what_takes_long_is_done_beside_the_event_loop(
    tmp_path: Path, teacher: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given much to read and to sift, feedback and heartbeats do not wait for it."""
    threads = set()

    def watched(kind: type, name: str) -> None:
        real = getattr(kind, name)

        def called(*args: Any, **values: Any) -> Any:
            threads.add(threading.current_thread())
            return real(*args, **values)

        monkeypatch.setattr(kind, name, called)

    watched(TaughtStore, "lessons")
    watched(SkillDistiller, "needed")
    watched(SkillDistiller, "distill")
    teacher.answer = teacher.paraphrases
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(8)))
        (task,) = await on.until(1, TrainingRequested)

    assert task.sources["script.paraphrase"] == 8
    assert threads
    assert threading.main_thread() not in threads


async def test_while_the_fleet_cannot_embed_orders_wait(tmp_path: Path, teacher: Script) -> None:
    teacher.answer = teacher.paraphrases
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME) as distiller:

        async def answer(material: Material) -> Contribution:
            on.fleet.failing = "internal"
            return await teacher.paraphrases(material)

        teacher.answer = answer
        await on.bus.publish(batch("b1", range(8)))
        await until(lambda: on.fleet.failing and len(on.fleet.asked) > 12)
        assert distiller.queue == 1
        on.fleet.failing = None
        await on.until(1, TrainingRequested)
        assert await on.bus.dead_letters() == ()


async def test_the_mock_teacher_teaches_every_kind(tmp_path: Path) -> None:
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(8)))
        (task,) = await on.until(1, TrainingRequested)

    data = dataset(on, task)
    kinds = {source.removeprefix("mock.") for source in data.sources() if "mock" in source}
    assert kinds >= {"paraphrase", "question", "grade", "hard_negative"}
    assert sum(task.sources.values()) == len(data.label_source)
    assert set(data.passage_sources) == {"feedback", "mock.hard_negative"}


async def test_a_batch_that_comes_again_after_all_is_said_is_known(
    tmp_path: Path, teacher: Script
) -> None:
    """Given a broker that delivers once more what was acknowledged too late."""
    event = batch("b1", range(8))
    async with stage(tmp_path, TAUGHT) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(event)
        await on.until(1, TrainingRequested)
        again = LearningBatchQueued(batch_id="b1", domain="birds", events=event.data.events)
        await until(lambda: distiller.queue == 0)
        distiller._orders.admit([Event(data=again, source=event.source, id=event.id)])
        assert distiller._orders.owed() == 0
