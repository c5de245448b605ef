"""The factory with its real training child: from a dataset file to a head in the card store."""

from pathlib import Path

import numpy as np
import pytest

from lora.card import BaseModel, LoRACard
from lora.head import bend
from lora.model import DEFAULT_ID, DEFAULT_SHA256
from lora.neighbours import beside
from lora.store import CardStore
from lora.training.champion import identity_head
from lora.training.dataset import FEEDBACK, TrainingSet
from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    SkillInstalled,
    SkillPublished,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
)
from services.factory.service import SkillFactory
from services.runtime.cards import describe
from services.runtime.settings import FactorySettings, Settings
from tests.services.factory.fakes import DIM, stage

SETTINGS = Settings(factory=FactorySettings(body_schedule="off", threads=1, head_time_budget=8.0))


def dataset(seed: int, *, learnable: bool) -> TrainingSet:
    """Queries drowned in three directions that mean nothing, or such as mean nothing at all."""
    random = np.random.default_rng(seed)
    passages = random.standard_normal((20, DIM)).astype(np.float32)
    drowning = random.standard_normal((200, 3)) @ random.standard_normal((3, DIM))
    answers = np.arange(200) % len(passages)
    if learnable:
        queries = passages[answers] + 1.5 * drowning
    else:
        queries = random.standard_normal((200, DIM))
    return TrainingSet.build(
        queries=[f"query {row}" for row in range(200)],
        query_vectors=queries,
        groups=np.arange(200),
        folds=np.arange(200) % 5,
        passages=[f"passage {row}" for row in range(len(passages))],
        passage_vectors=passages,
        labels=[(row, int(answer), 1.0, FEEDBACK) for row, answer in enumerate(answers)],
    )


def neighbour(data: TrainingSet) -> LoRACard:
    """The card of another skill, far from these queries."""
    return LoRACard(
        name="bees",
        version=1,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModel(DEFAULT_ID, DEFAULT_SHA256),
        dim=DIM,
        modules={"embedding": identity_head(DIM)},
        prototypes=-np.asarray(data.query_vectors[:1]),
        threshold=0.9,
    )


def task(data: TrainingSet, folder: Path) -> Event[TrainingRequested]:
    asked = TrainingRequested(
        task_id="t1",
        skill="birds",
        domain="birds",
        dataset=DatasetRef(digest=data.write(folder), rows=data.rows),
        base_model=BaseModelRef(id=DEFAULT_ID, sha256=DEFAULT_SHA256),
        batch_ids=("b1",),
    )
    return Event(data=asked, source="/distiller/1")


@pytest.mark.timeout(120)
async def test_a_head_that_learns_is_published_with_its_figures(tmp_path: Path) -> None:
    data = dataset(0, learnable=True)
    async with (
        stage(tmp_path, SETTINGS) as on,
        on.service(SkillFactory, "factory"),
        on.bus.watch(TrainingProgressed) as progress,
    ):
        bees = CardStore(on.state.cards).put(neighbour(data))
        installed = SkillInstalled(card=describe(bees))
        await on.bus.publish(Event(data=installed, source="/adapter_manager/1"))
        await on.bus.publish(task(data, on.state.datasets))
        (published,) = await on.until(1, SkillPublished, within=90)
        assert (await progress.get(5)).data.phase == "head"

    card = CardStore(on.state.cards).open(published.card.digest)
    assert published.card.metrics["gain"] > 0.1
    assert published.card.metrics["low"] > 0
    assert published.card.threshold is not None
    assert beside(published.card.metrics) == {"bees"}, "it was told from what is installed"
    assert card.head is not None
    turned = bend(data.query_vectors, [card.head])
    right = (turned @ data.passage_vectors.T).argmax(1) == np.arange(200) % 20
    assert right.mean() > 0.8


@pytest.mark.timeout(120)
async def test_noise_is_refused_with_its_figures(tmp_path: Path) -> None:
    data = dataset(1, learnable=False)
    async with stage(tmp_path, SETTINGS) as on, on.service(SkillFactory, "factory"):
        await on.bus.publish(task(data, on.state.datasets))
        (refused,) = await on.until(1, TrainingRejected, within=90)

    assert refused.reason.startswith("head: ")
    assert CardStore(on.state.cards).digests() == []
