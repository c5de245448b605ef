"""The distiller forgets a domain: feedback, lessons, datasets, and what it has in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import (
    DomainForgotten,
    Event,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    TrainingRequested,
)
from services.distiller import teacher as teachers
from services.distiller.cloud import answers
from services.distiller.cloud.left import FILE
from services.distiller.service import Distiller
from services.distiller.teacher import Contribution, Material
from services.runtime.settings import DistillerSettings, Settings
from services.runtime.store import open_store
from tests.services.distiller.material import batch, judged
from tests.services.factory.fakes import Stage, stage, until
from tests.services.forgetting import holding, word

NAME = "distiller"
BEFORE = "dissonance_monitor"


class Deaf:
    """A teacher that never answers."""

    name = "deaf"

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.forgot: list[str] = []

    async def teach(self, material: Material) -> Contribution:
        self.asked.set()
        await asyncio.Event().wait()
        return Contribution()

    async def forget(self, domain: str) -> None:
        self.forgot.append(domain)

    async def aclose(self) -> None:
        """Nothing to let go."""


def taught(name: str) -> Settings:
    return Settings(distiller=DistillerSettings(teacher=name))


def own(event: Event[FeedbackJudged]) -> Event[FeedbackJudged]:
    """The same with texts that no other domain has."""
    data, domain = event.data, event.data.domain
    changed = msgspec.structs.replace(
        data,
        feedback_id=f"{domain}-{data.feedback_id}",
        query=f"{domain} ask {data.query}",
        relevant=tuple(f"{domain} say {text}" for text in data.relevant),
        irrelevant=tuple(f"{domain} say {text}" for text in data.irrelevant),
    )
    return msgspec.structs.replace(event, data=changed)


def own_batch(name: str, numbers: range, domain: str) -> Event[LearningBatchQueued]:
    event = batch(name, numbers, domain)
    pieces = [own(judged(number, domain)).data for number in numbers]
    clashes = tuple(
        msgspec.structs.replace(
            clash,
            feedback_id=piece.feedback_id,
            prompt=piece.query,
            positives=piece.relevant,
            negatives=piece.irrelevant,
        )
        for clash, piece in zip(event.data.events, pieces, strict=True)
    )
    return msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, events=clashes))


async def forgotten(on: Stage) -> DomainForgotten:
    async def mine() -> list[Any]:
        words = [event.data for event in await on.said(DomainForgotten)]
        return [data for data in words if data.service == NAME]

    await until(mine)
    found: list[DomainForgotten] = await mine()
    return found[-1]


def texts(domain: str) -> Sequence[str]:
    return (f"{domain} ask", f"{domain} say")


async def test_feedback_lessons_and_datasets_of_the_domain_go_and_no_others(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, taught("mock")) as on, on.service(Distiller, NAME) as distiller:
        for domain in ("birds", "bees"):
            await on.bus.publish(*(own(judged(number, domain)) for number in range(16)))
            await on.bus.publish(own_batch(f"{domain}1", range(16), domain))
        tasks = {task.domain: task for task in await on.until(2, TrainingRequested)}
        files = {
            domain: on.state.datasets / f"{task.dataset.digest.removeprefix('sha256:')}.parquet"
            for domain, task in tasks.items()
        }
        assert all(file.exists() for file in files.values())
        assert {text for _, text in holding(tmp_path, texts("birds"))} == set(texts("birds"))
        kept = distiller._taught.lessons("bees", {"bees"}, "mock")["mock"]

        await on.bus.publish(word("birds", BEFORE))
        said = await forgotten(on)
        assert holding(tmp_path, texts("birds")) == []
        assert {text for _, text in holding(tmp_path, texts("bees"))} == set(texts("bees"))
        assert (files["birds"].exists(), files["bees"].exists()) == (False, True)
        assert distiller.counters["feedback"] == 16
        left = distiller._taught.lessons("bees", {"bees"}, "mock")["mock"]
        assert left.pairs == kept.pairs
        assert left.vectors.keys() == kept.vectors.keys()
        assert distiller._taught.lessons("birds", set(), "mock")["mock"].pairs == ()

        await on.bus.publish(own_batch("birds2", range(20, 36), "birds"))
        (*_, task) = await on.until(3, TrainingRequested)
    assert said.erased > 16
    assert task.domain == "birds"
    assert task.sources["replay"] == 0, "it starts anew"


async def test_an_order_in_hand_is_given_up_and_its_batch_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = Deaf()
    monkeypatch.setitem(teachers.TEACHERS, "mock", lambda settings, folder: deaf)
    async with stage(tmp_path, taught("mock")) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(own_batch("b1", range(16), "birds"))
        await deaf.asked.wait()
        await on.bus.publish(word("birds", BEFORE))
        await forgotten(on)
        (refused,) = await on.until(1, LearningBatchRejected)
        await until(lambda: distiller.queue == 0)
        assert holding(tmp_path, texts("birds")) == []
        assert await on.said(TrainingRequested) == []

    assert (refused.batch_id, refused.reason) == ("b1", "its domain was forgotten")
    assert deaf.forgot == ["birds"]


async def test_feedback_from_before_that_comes_late_is_not_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for the fleet while the word came."""
    monkeypatch.setattr("services.runtime.handful.PATIENCE", 0.05)
    async with stage(tmp_path) as on, on.service(Distiller, NAME) as distiller:
        on.fleet.failing = "internal"
        await on.bus.publish(own(judged(1)), own_batch("b1", range(2, 18), "birds"))
        await until(lambda: on.fleet.asked)
        await on.bus.publish(word("birds", BEFORE))
        await forgotten(on)
        on.fleet.failing = None
        await on.bus.publish(own(judged(20)))
        await until(lambda: distiller.counters["feedback"] == 1)
        await on.bus.publish(own_batch("b2", range(21, 37), "birds"))
        (task,) = await on.until(1, TrainingRequested)
        assert holding(on.state.of(NAME), ["at hour 2 "]) == []

    assert task.batch_ids == ("b2",)


async def test_words_of_others_are_none_of_its_business(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(own(judged(1)))
        await until(lambda: distiller.counters["feedback"] == 1)
        await on.bus.publish(word("birds", "factory"), own(judged(2)))
        await until(lambda: distiller.counters["feedback"] == 2)
        assert len(await on.said(DomainForgotten)) == 1


async def test_a_dataset_that_is_being_written_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes cannot be stopped."""
    from threading import Event as Flag

    from lora.training.dataset import TrainingSet

    begun, go, real = Flag(), Flag(), TrainingSet.write

    def slow(self: TrainingSet, folder: Path) -> str:
        begun.set()
        go.wait(20)
        return real(self, folder)

    monkeypatch.setattr(TrainingSet, "write", slow)
    async with stage(tmp_path) as on, on.service(Distiller, NAME):
        await on.bus.publish(own_batch("b1", range(16), "birds"))
        await until(begun.is_set)
        await on.bus.publish(word("birds", BEFORE))
        asyncio.get_running_loop().call_later(0.1, go.set)
        await forgotten(on)
        assert list(on.state.datasets.iterdir()) == []
        (refused,) = await on.until(1, LearningBatchRejected)
    assert refused.batch_id == "b1"


async def test_what_a_teacher_left_that_is_asked_no_more_goes_too(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(Distiller, NAME):
        folder = on.state.of(NAME)
        with closing(open_store(folder / FILE, answers.SCHEMA)) as store:
            for domain in ("birds", "bees"):
                asked = f"{domain} ask".encode()
                answers.Answers(store).put(asked, f"{domain} say so".encode(), domain)
        await on.bus.publish(word("birds", BEFORE))
        await forgotten(on)
        assert holding(folder, texts("birds")) == []
        assert {text for _, text in holding(folder, texts("bees"))} == set(texts("bees"))
