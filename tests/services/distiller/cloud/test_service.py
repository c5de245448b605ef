"""The distiller's process with a teacher behind HTTP: honest, down, awaited, too dear."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas import LearningBatchRejected, TrainingRequested
from services.distiller.service import Distiller
from services.runtime.settings import DistillerSettings, Settings
from tests.services.distiller.cloud import kit
from tests.services.distiller.test_service import SPECIES, batch, dataset, query
from tests.services.factory.fakes import Stage, stage, until
from tests.standin import faults
from tests.standin.honest import Honest
from tests.standin.server import Standin

WORDS = ("breakfast of the", "what feeds a", "menu for one", "diet of some", "snacks the")
HONEST = Honest(
    {f"{name} food": [f"{words} {name} {name}" for words in WORDS] for name in SPECIES},
    {query(number): f"{SPECIES[number % 8]} food" for number in range(64)},
)


def served(server: Standin, **changes: Any) -> Settings:
    """A distiller that asks the server, and its teacher's settings."""
    return Settings(
        distiller=DistillerSettings(teacher="openai"), teacher=kit.settings(server, **changes)
    )


async def asked(on: Stage, numbers: range, name: str = "b1") -> Sequence[TrainingRequested]:
    """All that is asked for once a batch was answered."""
    before = len(await on.said(TrainingRequested))
    await on.bus.publish(batch(name, numbers))
    return await on.until(before + 1, TrainingRequested)


async def test_what_a_teacher_says_is_in_the_dataset(tmp_path: Path) -> None:
    with kit.serving(HONEST) as server:
        settings = served(server, embedding_model="embedder")
        async with stage(tmp_path, settings) as on, on.service(Distiller, "distiller"):
            (task,) = await asked(on, range(16))

    data = dataset(on, task)
    assert task.teacher_reason is None
    assert task.sources["openai.question"] > 0
    assert task.sources["openai.grade"] > 0
    written = set(data.queries) - {query(number) for number in range(16)}
    assert written
    assert all(any(text.startswith(words) for words in WORDS) for text in written)


async def test_what_was_asked_once_is_not_asked_again(tmp_path: Path) -> None:
    with kit.serving(HONEST) as server:
        async with stage(tmp_path, served(server)) as on, on.service(Distiller, "distiller"):
            await asked(on, range(16))
            await asked(on, range(8, 24), "b2")

    shown = [
        (document["task"], *document.get("examples", ()), item.get("passage") or item["query"])
        for document in server.documents
        for item in document["items"]
    ]
    assert len(set(shown)) == len(shown)
    passages = Counter(what for task, *_, what in shown if task == "questions")
    assert set(passages.values()) == {2}  # with examples of two folds, half of the questions each


async def test_what_is_shown_beside_a_passage_is_of_the_fold_that_its_questions_teach(
    tmp_path: Path,
) -> None:
    """So that no model has learnt from what a teacher made of the queries that judge it."""
    with kit.serving(HONEST) as server:
        async with stage(tmp_path, served(server)) as on, on.service(Distiller, "distiller"):
            (task,) = await asked(on, range(16))

    data = dataset(on, task)
    fold = dict(zip(data.queries, data.folds.tolist(), strict=True))
    asking = [one for one in server.documents if one["task"] == "questions"]
    sights: dict[str, set[int]] = {}
    for document in asking:
        (shown,) = {fold[text] for text in document["examples"]}
        for answer in HONEST(document)["items"]:
            for text in answer["texts"]:
                sights.setdefault(text, set()).add(shown)
    kept = set(sights) & set(data.queries)
    assert len({fold[document["examples"][0]] for document in asking}) > 1
    assert kept
    assert all(fold[text] in sights[text] for text in kept)


async def test_while_the_teacher_is_down_feedback_alone_is_learned(tmp_path: Path) -> None:
    """And once it is back, the next batch asks for what was left."""
    with kit.serving(HONEST) as server:
        server.always = faults.status(503, "out for lunch")
        settings = served(server, retries=0)
        async with stage(tmp_path, settings) as on, on.service(Distiller, "distiller"):
            (first,) = await asked(on, range(16))
            server.always = None
            _, second = await asked(on, range(16, 20), "b2")

    assert "out for lunch" in (first.teacher_reason or "")
    assert not any(source.startswith("openai") for source in first.sources)
    assert first.sources["batch"] > 0
    assert second.teacher_reason is None
    shown = {
        item["passage"] for it in server.documents for item in it["items"] if "passage" in item
    }
    assert shown == {f"{name} food" for name in SPECIES}


async def test_a_batch_waits_for_its_teacher_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.distiller.cloud.endpoint.PAUSE", 0.2)
    with kit.serving(HONEST) as server:
        server.always = faults.status(503)
        settings = served(server, retries=0, unavailable="wait", max_wait=60.0)
        async with stage(tmp_path, settings) as on:
            async with on.service(Distiller, "distiller"):
                await on.bus.publish(batch("b1", range(16)))
                await until(lambda: server.counts["/v1/chat/completions"])
            assert await on.said(TrainingRequested) == []
            server.always = None
            async with on.service(Distiller, "distiller"):
                (task,) = await on.until(1, TrainingRequested)

    assert task.teacher_reason is None
    assert task.sources["openai.question"] > 0


async def test_no_longer_than_max_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.distiller.cloud.endpoint.PAUSE", 0.1)
    with kit.serving(HONEST) as server:
        server.always = faults.status(503, "gone for good")
        settings = served(server, retries=0, unavailable="wait", max_wait=0.5)
        async with stage(tmp_path, settings) as on, on.service(Distiller, "distiller"):
            (task,) = await asked(on, range(16))

    assert "gone for good" in (task.teacher_reason or "")


async def test_a_budget_that_ends_in_mid_order_keeps_what_was_paid(tmp_path: Path) -> None:
    with kit.serving(HONEST) as server:
        settings = served(server, requests_per_day=1, concurrency=1)
        async with stage(tmp_path, settings) as on, on.service(Distiller, "distiller"):
            (task,) = await asked(on, range(16))
            assert await on.said(LearningBatchRejected) == []

    assert "teacher.requests_per_day = 1" in (task.teacher_reason or "")
    assert task.sources["openai.question"] > 0
    assert server.counts["/v1/chat/completions"] == 1
