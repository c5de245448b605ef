"""The distiller on a bus: what it keeps, the datasets it makes, and that a kill changes nothing."""

import asyncio
import errno
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lora.training.dataset import FEEDBACK, TrainingSet
from lora.training.folds import fold_of, group_of
from schemas import (
    Event,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    LearningEvent,
    TrainingRequested,
)
from services.distiller.datasets import KEPT
from services.distiller.mining import MINED
from services.distiller.service import Distiller
from services.runtime.settings import DistillerSettings, Settings
from tests.services.distiller.material import SPECIES, batch, dataset, judged, query
from tests.services.factory.fakes import Stage, stage, until, vector

NAME = "distiller"


async def test_a_batch_and_all_earlier_feedback_make_a_dataset(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(*(judged(number) for number in range(40)))
        await until(lambda: distiller.counters["feedback"] == 40)
        await on.bus.publish(batch("b1", range(16)))
        (task,) = await on.until(1, TrainingRequested)

    data = dataset(on, task)
    assert (task.skill, task.domain, task.batch_ids) == ("birds", "birds", ("b1",))
    assert task.dataset.rows == data.rows
    assert set(data.queries) == {query(number) for number in range(40)}
    assert set(data.passages) == {f"{name} food" for name in SPECIES}
    assert task.sources["batch"] == 32
    assert task.sources["replay"] == 48
    assert data.metadata["domain"] == "birds"
    np.testing.assert_allclose(
        data.query_vectors, np.stack([vector(text) for text in data.queries]), atol=1e-6
    )


async def test_groups_and_folds_are_those_of_the_craft_for_ever(tmp_path: Path) -> None:
    settings = Settings(distiller=DistillerSettings(near_duplicate=0.999))
    async with stage(tmp_path, settings) as on:
        for round_, upto in enumerate((16, 32)):
            async with on.service(Distiller, NAME):
                await on.bus.publish(batch(f"b{round_}", range(upto - 16, upto)))
                tasks = await on.until(round_ + 1, TrainingRequested)

    first, second = (dataset(on, task) for task in tasks)
    place = {text: row for row, text in enumerate(second.queries)}
    for row, text in enumerate(first.queries):
        assert second.groups[place[text]] == first.groups[row] == group_of(text)
        assert second.folds[place[text]] == first.folds[row] == fold_of(group_of(text))


async def test_a_batch_brings_its_pieces_along_when_they_are_not_there_yet(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(batch("b1", range(16)))
        (task,) = await on.until(1, TrainingRequested)
        await on.bus.publish(*(judged(number) for number in range(16)))
        await until(lambda: distiller.queue == 0 and _acked(on))

        assert len(dataset(on, task).queries) == 16
        assert distiller.counters["feedback"] == 16


async def _acked(on: Stage) -> bool:
    return len(await on.said(FeedbackJudged)) == 16


async def test_batches_of_one_domain_that_wait_together_share_a_dataset(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        await on.bus.publish(
            batch("b1", range(16)), batch("b2", range(16, 32)), batch("c1", range(8), "bees")
        )
        async with on.service(Distiller, NAME):
            tasks = await on.until(2, TrainingRequested)

    assert {task.domain: task.batch_ids for task in tasks} == {
        "birds": ("b1", "b2"),
        "bees": ("c1",),
    }


async def test_a_batch_without_a_relevant_passage_is_rejected(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("empty", range(4), positives=False))
        (refused,) = await on.until(1, LearningBatchRejected)
        assert await on.said(TrainingRequested) == []

    assert refused.batch_id == "empty"
    assert "relevant" in refused.reason


async def test_a_domain_with_a_single_passage_has_nothing_to_rank(tmp_path: Path) -> None:
    event = batch("b", range(1))
    clash = event.data.events[0]
    lonely = LearningEvent(
        **{f: getattr(clash, f) for f in clash.__struct_fields__} | {"negatives": ()}
    )
    data = LearningBatchQueued(batch_id="lonely", domain="birds", events=(lonely,))
    async with stage(tmp_path) as on, on.service(Distiller, NAME):
        await on.bus.publish(Event(data=data, source="/dissonance_monitor/1"))
        (refused,) = await on.until(1, LearningBatchRejected)

    assert "single passage" in refused.reason


async def test_mined_negatives_are_near_and_never_labelled(tmp_path: Path) -> None:
    settings = Settings(distiller=DistillerSettings(hard_negatives=3))
    async with stage(tmp_path, settings) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(16)))
        (task,) = await on.until(1, TrainingRequested)

    data = dataset(on, task)
    pairs = list(zip(data.label_query.tolist(), data.label_passage.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    mined = np.array([source == MINED for source in data.label_source])
    assert 0 < mined.sum() <= 3 * 16
    assert task.sources[MINED] == mined.sum()
    assert (data.label_value[mined] == 0).all()
    assert data.real.all()


async def test_where_pieces_disagree_the_later_one_holds(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(Distiller, NAME) as distiller:
        old = judged(0).data
        turned = msgspec.structs.replace(
            old, feedback_id="later", relevant=old.irrelevant, irrelevant=old.relevant
        )
        await on.bus.publish(judged(0))
        await on.bus.publish(Event(data=turned, source="/dissonance_monitor/1", id="later"))
        await until(lambda: distiller.counters["feedback"] == 2)
        await on.bus.publish(batch("b1", range(1, 5)))
        (task,) = await on.until(1, TrainingRequested)

    data = dataset(on, task)
    row = data.queries.index(query(0))
    found = {
        data.passages[passage]: value
        for at, passage, value, source in zip(
            data.label_query, data.label_passage, data.label_value, data.label_source, strict=True
        )
        if at == row and source == FEEDBACK
    }
    assert found == {old.irrelevant[0]: 1.0, old.relevant[0]: 0.0}


async def test_replay_is_bounded_and_the_batch_always_there(tmp_path: Path) -> None:
    settings = Settings(distiller=DistillerSettings(replay_groups=5, near_duplicate=0.999))
    async with stage(tmp_path, settings) as on, on.service(Distiller, NAME) as distiller:
        await on.bus.publish(*(judged(number) for number in range(40)))
        await until(lambda: distiller.counters["feedback"] == 40)
        await on.bus.publish(batch("b1", range(4)))
        (task,) = await on.until(1, TrainingRequested)

    data = dataset(on, task)
    assert {query(number) for number in range(4)} <= set(data.queries)
    assert len(set(data.groups.tolist())) == 9


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_killed_around_the_acknowledgement_it_asks_for_one_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr("services.runtime.handful.VISIBILITY", 0.5)
    async with stage(tmp_path) as on:
        async with on.service(Distiller, NAME) as distiller:
            died, real = asyncio.Event(), distiller.bus.ack

            async def ack(deliveries: object, *, publish: object = ()) -> None:
                if moment == "after":
                    await real(deliveries, publish=publish)
                died.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(distiller.bus, "ack", ack)
            await on.bus.publish(batch("b1", range(16)))
            await died.wait()
        async with on.service(Distiller, NAME):
            await on.until(1, TrainingRequested)
            await asyncio.sleep(0.7)
            assert len(await on.said(TrainingRequested)) == 1


async def test_a_full_disk_keeps_batches_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is full, nothing of it goes to the dead letters or is written by half."""
    monkeypatch.setattr("services.runtime.disk.PATIENCE", 0.02)
    real, refused = TrainingSet.write, []

    def write(data: TrainingSet, folder: Path) -> str:
        if len(refused) < 8:
            refused.append(folder)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(data, folder)

    monkeypatch.setattr(TrainingSet, "write", write)
    async with stage(tmp_path) as on, on.service(Distiller, NAME):
        await on.bus.publish(batch("b1", range(16)))
        (task,) = await on.until(1, TrainingRequested)
        assert await on.bus.dead_letters() == ()

    assert len(refused) == 8
    assert len(dataset(on, task).queries) == 16


async def test_only_the_last_datasets_of_a_domain_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of others stay, and so does what a training may be about to read."""
    async with stage(tmp_path) as on:
        async with on.service(Distiller, NAME):
            for number in range(KEPT + 1):
                await on.bus.publish(batch(f"b{number}", range(4 * number, 4 * number + 8)))
                await on.until(number + 1, TrainingRequested)
            await on.bus.publish(batch("bees", range(8), "bees"))
            tasks = await on.until(KEPT + 2, TrainingRequested)
            assert len(list(on.state.datasets.iterdir())) == KEPT + 2
        (on.state.datasets / ".writing-half.parquet").touch()
        monkeypatch.setattr("services.distiller.datasets.GRACE", 0.0)
        async with on.service(Distiller, NAME):
            await on.bus.publish(batch("last", range(40, 48)))
            tasks = await on.until(KEPT + 3, TrainingRequested)
            await until(lambda: len(list(on.state.datasets.iterdir())) == KEPT + 1)

    for task in tasks[2:]:
        assert dataset(on, task).rows == task.dataset.rows


async def test_what_a_kill_left_of_a_dataset_is_cleared_away_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Half written, or whole and never asked to be trained."""
    async with stage(tmp_path) as on:
        async with on.service(Distiller, NAME):
            await on.bus.publish(batch("b1", range(8)))
            (task,) = await on.until(1, TrainingRequested)
        for name in (".writing-half.parquet", f"{'0' * 64}.parquet", "of-somebody.parquet"):
            (on.state.datasets / name).touch()
        async with on.service(Distiller, NAME):
            found = {file.name for file in on.state.datasets.iterdir()}

    assert found == {
        f"{task.dataset.digest.removeprefix('sha256:')}.parquet",
        "of-somebody.parquet",
    }
